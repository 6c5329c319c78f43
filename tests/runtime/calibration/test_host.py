"""Facts of the machine."""

import json

from runtime.calibration.host import facts
from tests.runtime.runs import OPTIONS


def test_facts_are_plain_values_and_name_the_machine():
    found = facts(OPTIONS, ["/somewhere/moelab", "calibrate", "a b"])
    assert json.loads(json.dumps(found)) == found
    assert found["command"] == "moelab calibrate 'a b'"
    assert found["options"]["gpu_threads"] == found["options"]["cpu_threads"] == 1
    assert found["host"]["cores"] >= 1
    assert found["environment"]["packages"]["torch"]
    assert str(found["host"]["cores"]) in found["environment"]["device"]
