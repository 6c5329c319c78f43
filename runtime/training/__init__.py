"""What expert-movement methods need in training, on a model small enough for two CPU cores.

`text` is what is read, `model` a small MoE language model, `fit` trains and evaluates it. On the
trained model stand `pre_gates` (Pre-gated MoE), `predictor` and `sida` (SiDA), `look_ahead`
(HOBBIT) and `recording` (routing for the simulator). `laboratory` does all of it in one order;
`python -m runtime.train` is the command.
"""
