"""What all pages share: how templates are filled, and the sentence that each of them says."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape

from cnr_iemn.patients.evidence.cells import percent

CLOSED_SET = (
    "Closed set: what is none of these classes is forced into one; the first means only that a scan resembles this "
    "cohort's {first} scans."
)


def page_templates(*packages: str) -> Environment:
    """Return the templates of the report, after those of other packages. HTML escapes whatever is filled in."""
    templates = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "cnr_iemn.report")]),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["percent"] = percent
    return templates
