# Sphinx: the collection's own documentation as a site. Nothing is asked of the network, so links into Ansible's documentation are plain ones.
import re

from docutils import nodes

project = "npuops.ktransformers"
copyright = "npuops contributors"
title = html_title = html_short_title = "npuops.ktransformers"
extensions = ["myst_parser", "sphinx_antsibull_ext"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["antsibull.cfg"]
default_role = "any"
highlight_language = "YAML+Jinja"
pygments_style = "ansible"
html_theme = "sphinx_ansible_theme"
html_theme_options = {
    "navigation_depth": 3, "documentation_home_url": "index.html", "vcs_pageview_mode": "edit",
    "topbar_links": {"Source": "https://github.com/npuops/ktransformers", "Issues": "https://github.com/npuops/ktransformers/issues"},
}  # fmt: skip
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_use_index = False
# Headings of the pages are linked to, as on the repository's own pages.
myst_heading_anchors = 3

# What antsibull-docs refers to in Ansible's own documentation; its inventory would have to be fetched.
ANSIBLE = "https://docs.ansible.com/projects/ansible/latest/"
ELSEWHERE = {
    "common_return_values": "reference_appendices/common_return_values.html",
    "action_plugins": "plugins/action.html",
    "ansible_configuration_settings": "reference_appendices/config.html",
}


def elsewhere(app, env, node, text):
    """A link for what this site doesn't have; anything else stays a warning, and so an error."""
    builtin = re.fullmatch(r"ansible_collections\.ansible\.builtin\.(\w+_(?:module|test|filter|lookup))", node["reftarget"])
    page = f"collections/ansible/builtin/{builtin[1]}.html" if builtin else ELSEWHERE.get(node["reftarget"])
    return nodes.reference("", "", text, internal=False, refuri=ANSIBLE + page) if page else None


def setup(app):
    app.connect("missing-reference", elsewhere)
