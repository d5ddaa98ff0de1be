# SPDX-License-Identifier: Apache-2.0
"""Drives a server through the Python package etcd3: watches, leases, locks (etcd3_client.py)."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from test_python import server  # noqa: F401: a fixture

CLIENT = pathlib.Path(__file__).with_name("etcd3_client.py")
NAMES = re.findall(r"^    (\w+),$", CLIENT.read_text(), re.M)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("etcd3") is None, reason="the package etcd3 is not installed"
)


@pytest.mark.parametrize("name", NAMES)
def test_etcd3(server, name):  # noqa: F811
    environment = dict(os.environ, PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION="python")
    done = subprocess.run(
        [sys.executable, CLIENT, name, server.address],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_all_are_run():
    assert len(NAMES) == len(re.findall(r"^def \w+\(c\)", CLIENT.read_text(), re.M))
