"""Models and workloads as TOML, each value with its source; `model_presets` and `workload_presets`
read them."""
