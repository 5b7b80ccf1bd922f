import json
import re
import shlex
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_code_of_the_readme_runs_and_carries_the_points():
    torch.manual_seed(0)
    names = {}
    for block in blocks("python"):
        exec(block, names)
    # The target of the example is uniform on [3, 4]^2; 500 steps bring the mean within 0.2 of its centre.
    assert (names["x1"].mean(0) - 3.5).abs().max() < 0.2
    assert names["gap"].value > 5 * names["gap"].standard_error  # that network was trained on another target


def test_every_make_target_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    commands = [line.partition("#")[0].split() for block in blocks("sh") for line in block.splitlines()]
    targets = [words[1] for words in commands if words[0] == "make"]
    assert targets == ["demo", "test", "bench"]
    for target in [*targets, *re.findall(r"`make (\w+)`", README)]:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_every_command_of_the_readme_parses(capsys):
    from interpolants.cli import main

    commands = re.findall(r"`(interpolants (?:demo|train|sample|evaluate|check) [^`]*)`", README)
    assert len(commands) >= 2
    for command in commands:
        with pytest.raises(SystemExit) as stop:
            main([*shlex.split(command)[1:], "--help"])
        assert stop.value.code == 0


def test_every_name_of_the_readme_can_be_imported():
    import interpolants

    for name in re.findall(r"`([A-Z][A-Za-z0-9]+|gammas\.Quadratic)[`(]", README):
        if name not in ("NAME", "UNet2DModel"):
            found = interpolants
            for part in name.split("."):
                found = getattr(found, part)


def test_every_picture_of_the_readme_is_there():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).is_file()


def test_every_figure_of_the_readme_is_the_measured_one():
    results = {
        path.stem: json.loads(path.read_text()) for path in (ROOT / "benchmarks/results").glob("*.json")
    }
    for name in ("wasserstein2", "wasserstein2_floor"):
        assert f"{results['demo'][name]:.4f}" in README
    nats = results["sde_2d"]["negative_log_likelihood"]
    assert f"{nats['value']:.4f} ± {nats['standard_error']:.4f} nats" in README
    assert f"in {results['sde_2d']['seconds']:.0f} s the flow's" in README
    for name, row in results["checkerboard"]["rows"].items():
        assert f"| {name} | {row['sliced_wasserstein2']:.4f} ± {row['standard_error']:.4f} |" in README
    digits = results["digits"]["rows"]
    for name, row in digits.items():
        few, many = row["frechet"]["generated"], row["frechet_all"]
        figures = [f"{row['seconds']:,.0f}"]
        figures += [f"{figure['value']:.3f} ± {figure['standard_error']:.3f}" for figure in (few, many)]
        figures += [f"{row[share]['generated']['value']:.3f}" for share in ("precision", "recall")]
        assert f"| {name} | " + " | ".join([*figures, f"{row['copies']['share']:.4f}"]) in README
    real = digits["default"]["frechet"]["floor"]
    assert f"| real images | | {real['value']:.3f} ± {real['standard_error']:.3f} |" in README
    assert f"{digits['default']['seconds']:.0f} s on one thread" in README
    rows = results["sources"]["rows"]
    for source in ("Gaussian noise", "uniform noise", "glyphs"):
        for pairs in ("independent", "optimal-transport"):
            found = [
                row["frechet"]["generated"]
                for sampler in ("ODE, no latent", "ODE", "SDE")
                for row in rows
                if (row["source"], row["target"]) == (source, "digits")
                and (row["pairs"], row["sampler"]) == (pairs, sampler)
            ]
            figures = " | ".join(
                f"{figure['value']:.2f} ± {figure['standard_error']:.2f}" for figure in found
            )
            assert f"| {source} | {pairs} | {figures} |" in README
    survival = results["survival"]
    assert survival["kills"]["kills"] == 40
    assert not survival["kills"]["different"]
    assert survival["memory"]["growth_bytes"] < 2**20
    equal = results["ddim_run"]["frechet"]
    for evaluations, distance in equal["IADB (Euler)"].items():
        assert equal["DDIM"][evaluations] == pytest.approx(distance, rel=1e-4)
        if int(evaluations) >= 16:
            assert max(equal["Heun"][evaluations], equal["rk4"][evaluations]) <= distance
