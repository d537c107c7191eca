"""What a training says and leaves."""


def test_the_last_line_names_what_is_there_and_nothing_else(train, capsys):
    train("run")
    assert capsys.readouterr().out.splitlines()[-1] == "runs/run: done; model.safetensors and metrics.csv are there"
    grid = "{_target_: lightning_diff.callbacks.NoiseLevels}"
    train("drawn", f"callbacks=[{grid}]")
    assert capsys.readouterr().out.splitlines()[-1].endswith("model.safetensors, metrics.csv and pictures are there")
