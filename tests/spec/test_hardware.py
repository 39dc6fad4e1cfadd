from __future__ import annotations

from dllmc.spec import HardwareKey

KEY = HardwareKey(kind="cpu", name="Some CPU (R) @ 2/3 GHz", architecture="avx512", units=2)


def test_fallbacks_widen_step_by_step() -> None:
    assert KEY.fallbacks() == (
        ("cpu", "avx512", "Some CPU (R) @ 2/3 GHz", "2"),
        ("cpu", "avx512", "Some CPU (R) @ 2/3 GHz"),
        ("cpu", "avx512"),
    )


def test_id_is_a_file_name() -> None:
    assert KEY.id == "cpu-avx512-some-cpu-r--23-ghz-2"
