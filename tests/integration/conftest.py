"""Simulated nodes, one for each test file: bare and deployed."""

from __future__ import annotations

import pytest

from tests.integration.nodes import Node, simulate


@pytest.fixture(scope="module")
def bare_node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A simulated node on which nothing of ours was installed, one for each test file."""
    return simulate(tmp_path_factory.mktemp("bare"))


@pytest.fixture(scope="module")
def deployed_node(tmp_path_factory: pytest.TempPathFactory) -> Node:
    """A simulated node that the site playbook has deployed, one for each test file."""
    node = simulate(tmp_path_factory.mktemp("deployed"))
    run = node.play()
    assert run.rc == 0, run.output[-6000:]
    return node
