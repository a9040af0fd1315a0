"""The chain with small notebooks and real processes: order, stamps, failures, interruption, the report."""
import html.parser
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from acgan import claims, runner, stages
from acgan.config import UserError, home, locked, read_json, write_json
from acgan.report import build_report
from acgan.runner import StageError
from acgan.stages import Stage, make_job, plan

CLAIMS = (home() / "nbs" / "claims.yaml").read_text()
PARAMETERS = 'profile: str = "quick"\nlabel: str = ""\nsteps: int = 3  # how many\nrate: float = 0.1'
FOLDER = 'import os, sys, time\nfrom pathlib import Path\nout = Path(os.environ["ACGAN_HOME"]) / "figures" / label\nout.mkdir(parents=True, exist_ok=True)'
STAGES = (Stage("one", "one.ipynb", "a file"), Stage("two", "two.ipynb", "the file doubled", needs=("one",)))


def write(path, *cells, tags=("parameters",)):
    def cell(i, source):
        return {"cell_type": "code", "id": f"cell{i}", "metadata": {"tags": list(tags)} if i == 1 else {}, "source": source, "outputs": [],
                "execution_count": None}
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": "# A study\n\n> It has a claim."}
    content = {"cells": [title, *(cell(i, source) for i, source in enumerate(cells, 1))], "nbformat": 4, "nbformat_minor": 5,
               "metadata": {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("ACGAN_HOME", str(tmp_path))
    monkeypatch.delenv("ACGAN_WORK", raising=False)
    monkeypatch.setattr(stages, "STAGES", STAGES)
    write(tmp_path / "nbs/one.ipynb", PARAMETERS, FOLDER, '(out / "one.txt").write_text(f"{steps} {sys.executable}")')
    write(tmp_path / "nbs/two.ipynb", PARAMETERS, FOLDER, '(out / "two.txt").write_text((out / "one.txt").read_text() * 2)')
    (tmp_path / "nbs/profiles").mkdir()
    (tmp_path / "nbs/profiles/quick.yaml").write_text(yaml.safe_dump({"images": {"name": "blossoms", "resolution": 32}}))
    (tmp_path / "nbs/claims.yaml").write_text(CLAIMS)
    return tmp_path


def run(*overrides, said=None, **how):
    return list(runner.run(make_job("quick", overrides=overrides), say=lambda text="", **kw: said.append(text) if said is not None else None, **how))


def test_only_what_changed_runs_again(project, monkeypatch):
    personal = project / "home/.ipython/profile_default/startup"
    personal.mkdir(parents=True)
    (personal / "mine.py").write_text("1 / 0")
    (personal.parent / "ipython_config.py").write_text("1 / 0")
    monkeypatch.setenv("HOME", str(project / "home"))
    said = []
    assert run() == ["one", "two"]
    assert (project / "figures/quick/one.txt").read_text() == f"3 {sys.executable}", "the study runs under another interpreter"
    assert run(said=said) == [] and any("nothing to do: 2 of 2" in line for line in said)
    write(project / "nbs/two.ipynb", PARAMETERS, FOLDER + "  # a comment", '(out / "two.txt").write_text((out / "one.txt").read_text() * 2)')
    assert run() == []
    steps = [(stage.id, why) for stage, why in plan(make_job("quick", overrides=["two.rate=1"]))]
    assert steps == [("one", None), ("two", "parameters changed")]
    (project / "figures/quick/two.txt").unlink()
    assert plan(make_job("quick"))[1][1] == "figures/two.txt is gone"
    write(project / "nbs/one.ipynb", PARAMETERS, FOLDER, '(out / "other.txt").write_text("x")')
    assert [why for _, why in plan(make_job("quick"))] == ["notebook changed", "figures/two.txt is gone"]
    assert run(only=["one"]) == ["one"]
    assert sorted(p.name for p in (project / "figures/quick").iterdir()) == ["other.txt"], "the stale output of stage one stayed"


def test_a_file_that_moves_to_another_stage_is_not_taken_for_stale(project):
    write(project / "nbs/two.ipynb", PARAMETERS, FOLDER, '(out / "moved.txt").write_text("by two")')
    assert run() == ["one", "two"]
    write(project / "nbs/one.ipynb", PARAMETERS, FOLDER, '(out / "moved.txt").write_text("by one")')
    write(project / "nbs/two.ipynb", PARAMETERS, FOLDER, '(out / "two.txt").write_text("x")')
    assert run() == ["one", "two"] and (project / "figures/quick/moved.txt").read_text() == "by one"


def three(project, *cells):
    names = 'str(sorted(p.name for p in out.iterdir() if p.suffix == ".txt"))'
    write(project / "nbs/three.ipynb", PARAMETERS, FOLDER, *cells, f'(out / "three.txt").write_text({names})')


def test_a_stage_waits_for_those_it_needs_and_its_files_are_its_own(project, monkeypatch):
    monkeypatch.setattr(stages, "STAGES", (*STAGES, Stage("three", "three.ipynb", "a list", needs=("two",))))
    three(project, "assert os.environ['ACGAN_STAGE'] == 'three'")
    assert run(jobs=2) == ["one", "two", "three"]
    files = {path.name: path.read_text() for path in (project / "figures/quick").iterdir()}
    stamps = {name: read_json(project / f"data/quick/stamps/{name}.json") for name in ("one", "two", "three")}
    assert files["three.txt"] == "['one.txt', 'two.txt']", "stage three worked before stage two had ended"
    assert {name: list(stamp["outputs"]) for name, stamp in stamps.items()} == {name: [f"figures/{name}.txt"] for name in stamps}
    for stamp in stamps.values():
        assert stamp["seconds"] > 0 and stamp["cpu_seconds"] > 0 and stamp["memory"] > 1e7 and stamp["core"] in (0, 1)
    assert run(jobs=1) == [] and run() == [], "what two jobs made is up to date for one"


BESIDE = """other = out / ("b" if os.environ["ACGAN_STAGE"] == "a" else "a")
(out / os.environ["ACGAN_STAGE"]).write_text("x")
end = time.monotonic() + 60
while not other.exists() and time.monotonic() < end:
    time.sleep(0.05)
(out / f"{os.environ['ACGAN_STAGE']}.txt").write_text(str(other.exists()))"""


def test_stages_that_need_nothing_of_each_other_run_side_by_side(project, monkeypatch):
    monkeypatch.setattr(stages, "STAGES", (Stage("a", "three.ipynb", "one half"), Stage("b", "three.ipynb", "the other")))
    write(project / "nbs/three.ipynb", PARAMETERS, FOLDER, BESIDE)
    assert sorted(run(jobs=2)) == ["a", "b"]
    stamps = [read_json(project / f"data/quick/stamps/{name}.json") for name in "ab"]
    assert [(project / f"figures/quick/{name}.txt").read_text() for name in "ab"] == ["True", "True"], "one waited for the other's end"
    assert [list(stamp["outputs"]) for stamp in stamps] == [["figures/a", "figures/a.txt"], ["figures/b", "figures/b.txt"]]
    assert sorted(stamp["core"] for stamp in stamps) == [0, 1]


def test_behind_a_failure_nothing_runs_and_everything_else_does(project, monkeypatch):
    table = (*STAGES, Stage("three", "three.ipynb", "what nobody needs"), Stage("page", "three.ipynb", "all", after=("two", "three")))
    monkeypatch.setattr(stages, "STAGES", table)
    three(project)
    write(project / "nbs/one.ipynb", PARAMETERS, FOLDER, "1 / 0")
    said = []
    with pytest.raises(StageError, match=r"nbs/one.ipynb, cell 4 .*ZeroDivisionError(.|\n)*skipped for that: two, page"):
        run(said=said, jobs=2)
    assert (project / "figures/quick/three.txt").is_file() and not (project / "figures/quick/two.txt").exists()
    assert sum("failed: nbs/one.ipynb, cell 4" in line for line in said) == 1
    write(project / "nbs/one.ipynb", PARAMETERS, FOLDER, '(out / "one.txt").write_text("x")')
    assert run(jobs=2) == ["one", "two", "page"], "what had run well runs again"


def test_jobs_that_would_pass_the_memory_wait(project, monkeypatch):
    monkeypatch.setattr(stages, "STAGES", (Stage("a", "three.ipynb", "one half"), Stage("b", "three.ipynb", "the other")))
    write(project / "nbs/three.ipynb", PARAMETERS, "1")
    assert sorted(run(jobs=2, memory=1e9)) == ["a", "b"]
    stamps = sorted((read_json(project / f"data/quick/stamps/{name}.json") for name in "ab"), key=lambda stamp: stamp["began"])
    assert stamps[0]["began"] + stamps[0]["seconds"] <= stamps[1]["began"] + 0.1
    assert [stamp["core"] for stamp in stamps] == [0, 0]


def test_the_gallery_belongs_to_its_stage_and_is_linked(project):
    job, gallery = make_job("quick"), project / "figures/quick/gallery.html"
    gallery.parent.mkdir(parents=True)
    gallery.write_text("<p>every class</p>")
    (job.folder / "executed").mkdir(parents=True)
    (job.folder / "executed/one.writes").write_text(f"{gallery}\n")
    assert runner.outputs_of(job, STAGES[0]) == ["figures/gallery.html"], "what a stage writes there is one of its outputs"
    write_json(job.stamp("one"), {"inputs": stages.stage_inputs(job, STAGES[0]), "outputs": {"figures/gallery.html": stages.file_state(gallery)}, "seconds": 1})
    assert plan(job)[0][1] is None
    assert '<a href="gallery.html">samples of every class</a>' in build_report("quick", stages=STAGES).read_text()
    gallery.unlink()
    assert plan(job)[0][1] == "figures/gallery.html is gone"
    assert "gallery.html" not in build_report("quick", stages=STAGES).read_text()


def test_an_edited_template_makes_only_the_report_run_again(tmp_path, monkeypatch):
    template = tmp_path / "page.html.j2"
    monkeypatch.setattr(stages, "package_files", lambda: {"templates/page.html.j2": template})
    found = []
    for text in ("<p>", "<p class=other>"):
        template.write_text(text)
        found.append([stages.package_hash(f"from acgan import {name}") for name in ("report", "runner", "training")])
    assert [one == two for one, two in zip(*found, strict=True)] == [False, True, True]


def test_a_failing_notebook_is_named_and_the_next_run_goes_on(project):
    write(project / "nbs/two.ipynb", PARAMETERS, FOLDER, "print('so far')\n1 / 0")
    with pytest.raises(StageError, match=r"nbs/two.ipynb, cell 4 \(id cell3\): ZeroDivisionError: division by zero"):
        run()
    assert "so far" in (project / "data/quick/executed/two.ipynb").read_text()
    assert not (project / "data/quick/stamps/two.json").exists()
    write(project / "nbs/two.ipynb", PARAMETERS, FOLDER, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(StageError, match="nbs/two.ipynb, cell 4.*died"):
        run()
    write(project / "nbs/two.ipynb", PARAMETERS, "steps")
    assert run() == ["two"]


def test_a_mistake_of_the_user_stays_one_line(project):
    write(project / "nbs/one.ipynb", PARAMETERS, "from acgan.config import UserError\nraise UserError('no such folder: x')")
    with pytest.raises(UserError, match=r"^nbs/one.ipynb, cell 3 \(id cell2\): no such folder: x$"):
        run(only=["one"])


@pytest.mark.parametrize("overrides, message", [
    (["one.stepz=1"], "nbs/one.ipynb has no parameter 'stepz': it has profile, label, steps, rate"), (["one.steps=many"], "'steps' is int, not str"),
    (["three.x=1"], "unknown stage 'three'"), (["steps"], "write stage.parameter=value"), (["one.steps=true"], "'steps' is int, not bool")])
def test_parameters_are_checked_before_anything_runs(project, overrides, message):
    with pytest.raises(UserError, match=re.escape(message)):
        run(*overrides)
    assert not (project / "data").exists() and not (project / "figures").exists()


def test_the_profile_may_not_name_what_is_not_there(project):
    path = project / "nbs/profiles/quick.yaml"
    good = yaml.safe_load(path.read_text())
    for given, message in (({"one": {"stepz": 1}}, "no parameter 'stepz'"), ({"uno": {}}, "unknown stage 'uno'")):
        path.write_text(yaml.safe_dump(good | {"stages": given}))
        with pytest.raises(UserError, match=message):
            make_job("quick")
    path.write_text(yaml.safe_dump(good | {"stages": {"one": {"steps": 7, "rate": 1}}}))
    assert make_job("quick").parameters["one"] == {"profile": "quick", "label": "quick", "steps": 7, "rate": 1.0}
    with pytest.raises(UserError, match="the data folder .* does not exist"):
        make_job("quick", data_root=str(project / "nowhere"))


@pytest.mark.parametrize("tags, count", [((), 0), (("parameters",), 2)])
def test_a_study_has_exactly_one_parameters_cell(project, tags, count):
    write(project / "nbs/two.ipynb", PARAMETERS, "x = 1", tags=tags)
    if count == 2:
        text = json.loads((project / "nbs/two.ipynb").read_text())
        text["cells"][2]["metadata"] = {"tags": ["parameters"]}
        (project / "nbs/two.ipynb").write_text(json.dumps(text))
    with pytest.raises(UserError, match=f"nbs/two.ipynb has {count} cells tagged 'parameters'"):
        make_job("quick")


def test_two_chains_on_one_label_do_not_meet(project):
    job = make_job("quick")
    with locked(job.folder), pytest.raises(UserError, match="another run is using"):
        runner.run(job, say=lambda *a, **k: None)


def test_a_vanished_run_folder_makes_its_stage_run(project):
    job = make_job("quick")
    (project / "data/runs/abc").mkdir(parents=True)
    (project / "figures/quick").mkdir(parents=True)
    for stage in STAGES:
        write_json(job.stamp(stage.id), {"inputs": stages.stage_inputs(job, stage), "outputs": {}, "folders": ["runs/abc"]})
    assert [why for _, why in plan(job)] == [None, None]
    (project / "data/runs/abc").rmdir()
    assert [why for _, why in plan(job)] == ["runs/abc is gone", "runs/abc is gone"]


DRIVER = """
import sys
from acgan import cli, stages
stages.STAGES = (stages.Stage("slow", "slow.ipynb", "nothing, slowly"), stages.Stage("next", "slow.ipynb", "runs beside"))
sys.exit(cli.main(["reproduce", *sys.argv[1:]]))
"""


def gone(pid, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z":
            return True
        time.sleep(0.1)
    return False


def children(pid):
    """Ids of the running processes whose parent is `pid`, on Linux."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            state, parent = (entry / "stat").read_text().rpartition(") ")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(entry.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="a parent's death is announced on Linux only")
@pytest.mark.parametrize("sign, code, error, words", [(signal.SIGINT, 130, "stopped; the next run goes on from here", ["--jobs", "1"]),
                                                      (signal.SIGKILL, -9, "", ["--jobs", "2"])])
def test_an_interrupted_chain_leaves_nothing_running(project, sign, code, error, words):
    write(project / "nbs/slow.ipynb", PARAMETERS, FOLDER, '(out / "pid.tmp").write_text(str(os.getpid()))\nos.replace(out / "pid.tmp", out / "pid")\ntime.sleep(300)')
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)           # a job in the background of a script ignores Ctrl-C
    process = subprocess.Popen([sys.executable, "-c", DRIVER, *words], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    mark, end = project / "figures/quick/pid", time.monotonic() + 60
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.1)
    study, count = int(mark.read_text()), int(words[1])
    helpers = children(process.pid)                                       # the process that jobs are copies of, and Python's own keeper of resources
    jobs = lambda: [pid for helper in helpers for pid in children(helper)]
    while len(jobs()) < count and time.monotonic() < end:
        time.sleep(0.1)
    ours = [*helpers, *jobs()]
    assert study in jobs() and len(jobs()) == count and len(helpers) == 2, "one process for each stage that was started"
    process.send_signal(sign)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code and error in said and "Traceback" not in said
    assert all(gone(pid) for pid in ours), "a process lives on"
    assert not (project / "data/quick/stamps/slow.json").exists()
    with locked(project / "data/quick"):
        pass


WATCHED = """
import sys
from acgan import cli, stages
stages.STAGES = (stages.Stage("first", "slow.ipynb", "a pause"), stages.Stage("second", "slow.ipynb", "the same", needs=("first",)))
sys.exit(cli.main(["reproduce", "--jobs", "2"]))
"""


def in_a_terminal(program, place, columns=100):
    """(exit code, the lines that a terminal of so many columns got, without its control sequences) of a Python program."""
    import fcntl
    import pty
    import struct
    import termios
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", program], cwd=place, stdin=its, stdout=its, stderr=its, close_fds=True)
    os.close(its)
    said = b""
    try:
        while piece := os.read(ours, 65536):
            said += piece
    except OSError:                                                       # how Linux says that nobody holds the other end
        pass
    os.close(ours)
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode())
    return process.wait(60), re.split(r"[\r\n]+", plain)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_a_terminal_shows_a_bar_for_all_jobs_and_one_for_each_that_runs(project):
    write(project / "nbs/slow.ipynb", PARAMETERS, "import time", *["time.sleep(0.7)"] * 4)
    code, lines = in_a_terminal(WATCHED, project)
    assert code == 0
    bars = [line for line in lines if re.search(r"\d+ %\|.*left$", line)]
    assert any(line.startswith("all jobs") for line in bars), lines
    shown = [int(found[1]) for line in bars if (found := re.match(r"first\b.* (\d+) %", line))]
    rise = shown[:shown.index(max(shown)) + 1]                            # behind it the bar is set back for the next job
    assert len(set(rise)) >= 3 and rise == sorted(rise), "the running job's bar did not move as its cells ran"
    assert max(map(len, bars)) <= 100, "a bar is wider than the terminal"
    ends = [line for line in lines if re.match(r"\[[12]/2\] ", line)]
    assert [line.split()[1] for line in ends] == ["first", "second"] and all(re.search(r"\d\.\d s$", line) for line in ends)


class Page(html.parser.HTMLParser):
    """Counts tags and checks that they close; collects what a page would load."""
    void = {"meta", "img", "input", "br"}

    def __init__(self, text):
        super().__init__()
        self.open, self.count, self.loads, self.images = [], {}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.count[tag] = self.count.get(tag, 0) + 1
        values = dict(attributes)
        self.loads += [values[name] for name in ("src", "href") if name in values and not values[name].startswith(("data:", "#"))]
        self.images += [values] if tag == "img" else []
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report_is_one_whole_page(project):
    from acgan import figures
    fig, (ax,) = figures.panels(width="column")
    figures.save_figure(fig, "plot", "quick", "A <plot> & more", {"a": {"b": 1.23456, "c": None}, "list": list(range(50))}, n=3, seeds=[0])
    figures.save_table([{"layer": "conv", "maps": 16}, {"layer": "<linear>", "maps": None}], "nets", "quick", "Layers")
    claims.record("quick", "acgan-4.4-a", 8.2, evidence={"values": [8.2]}, n=100, differs=["x < y"])
    path = build_report("quick", stages=(*STAGES, Stage("report", "one.ipynb", "the page")))
    text = path.read_text()
    page = Page(text)
    assert page.open == [] and page.loads == [] and "script" not in page.count
    assert [(image["alt"], int(image["width"]) < 660) for image in page.images] == [("Plot", True)]
    assert text.count("Missing: this stage has not run") == 2, "a stage that has not run must be shown"
    assert text.count("is missing: no stage has drawn it") == 12 + 12 + 5, "Figures 1 to 10 and Tables 1 and 2 are missed by number, and those of AM-GAN and of the report"
    assert "A &lt;plot&gt; &amp; more" in text and "&lt;linear&gt;" in text and "x &lt; y" in text and "(50 values)" in text
    assert page.count["tr"] > len(claims.ledger()) and "<b>1</b> inconclusive" in text
    assert build_report("quick", stages=STAGES).read_text() == build_report("quick", stages=STAGES).read_text()


def test_the_papers_figures_come_first_and_in_its_order(project):
    from acgan import figures
    stage = Stage("one", "odena2017/one.ipynb", "figures")
    write(project / "nbs/odena2017/one.ipynb", PARAMETERS, "1")
    for name in ("extra", "table2_nets", "fig10_counts", "fig2_accuracy", "table1_nets"):
        if name.startswith("table"):
            figures.save_table([{"a": 1}], name, "quick", "A table.")
        else:
            fig, _ = figures.panels(width="column")
            figures.save_figure(fig, name, "quick", "A figure.", {"a": 1}, n=1, seeds=[0])
    write_json(make_job("quick", stages=[stage]).stamp("one"), {"seconds": 1.0, "inputs": {}, "outputs": {
        f"figures/{path.name}": "x" for path in (project / "figures/quick").glob("*.json")}})
    text = build_report("quick", stages=[stage]).read_text()
    order = re.findall(r'<figure id="([^"]+)"', text)
    assert order == ["fig2_accuracy", "fig10_counts", "table1_nets", "table2_nets", "extra"]
    assert text.index("Figure 1 (") < text.index('id="fig2_accuracy"') < text.index("Figure 3 (") < text.index('id="fig10_counts"')
    assert text.count("is missing: no stage") == 8 + 12 + 5
    assert text.index('id="paper-odena2017"') < text.index('id="stage-one"') < text.index('id="paper-zhou2018"') < text.index('<section id="ledger"')
    assert 'Above: <a href="#fig2_accuracy">' in text.split('id="stage-one"')[1]


def test_every_stage_of_the_real_chain_has_its_notebook(monkeypatch):
    monkeypatch.delenv("ACGAN_HOME", raising=False)
    job = make_job("quick")
    assert set(job.parameters) == {stage.id for stage in stages.STAGES}
    assert all({"profile", "label", "dataset", "data_root", "device"} <= set(stages.notebook_parameters(stage)) for stage in stages.STAGES)
