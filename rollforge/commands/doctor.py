"""``rollforge doctor``: whether this machine, these files and this config will work, before hours are spent."""

from __future__ import annotations

from rollforge import trust
from rollforge.commands.arguments import Arguments, number, path
from rollforge.commands.lightning import _quiet
from rollforge.commands.output import print_out
from rollforge.commands.parsed import ParsedCLI
from rollforge.commands.typed import read
from rollforge.doctor.card import free_on
from rollforge.doctor.config_checks import ConfigChecks
from rollforge.doctor.finding import Findings
from rollforge.errors import UserError
from rollforge.ranges import NonNegative

PROBE = 10.0  # seconds


def run(arguments: list[str]) -> int:
    """Examines a config. The exit code is 1 if something will not work."""
    parser = Arguments(
        prog="rollforge doctor",
        description="Check machine, files and config. Takes what `rollforge predict` takes.",
    )
    parser.add_argument("-c", "--config", type=path, action="append", default=[], help="the YAML to check")
    parser.add_argument(
        "--probe_seconds", type=number(NonNegative), default=PROBE, help="how long to roll to tell the wall time"
    )
    parser.add_argument("--card", help="answer for a CUDA card of that memory, such as 16GB, which need not be here")
    chosen, rest = parser.parse_known_args(arguments)
    if not chosen.config:
        raise UserError("doctor needs a config; give --config FILE, as to predict.")
    card = None if chosen.card is None else free_on(chosen.card)
    typed = read([*(f"--config={file}" for file in chosen.config), *rest])
    _quiet()
    findings = Findings(print_out)
    with trust.guarded(typed.modules):
        cli = ParsedCLI("predict", typed)
        ConfigChecks(cli.chosen, cli.folder, findings, chosen.probe_seconds, card).run()
    print_out(f"\n{_summary(findings)}\n")
    return 1 if findings.problems else 0


def _summary(findings: Findings) -> str:
    warnings = sum(finding.status == "warning" for finding in findings)
    if findings.problems:
        return f"This will not work: {findings.problems} problem{'s' if findings.problems > 1 else ''}."
    if any(finding.status == "unknown" for finding in findings):
        return "This will run, but whether the video will be any good cannot be told: see above."
    return f"This will work{f', with {warnings} warnings' if warnings > 1 else ', with 1 warning' if warnings else ''}."
