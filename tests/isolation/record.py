"""Records a dockerd's verdicts: python tests/isolation/record.py unix:///path/docker.sock >
verdicts-docker28.json"""

import json
import os
import sys
import tempfile
from pathlib import Path

import docker

sys.path.insert(0, str(Path(__file__).parents[1]))

from harness import probe


def main() -> None:
    """Run every scenario and print them."""
    client = docker.DockerClient(base_url=sys.argv[1], timeout=120)
    with tempfile.TemporaryDirectory() as folder:
        probe.add_image(client, probe.IMAGE, probe.pack(probe.probe_root(Path(folder))))
    version = client.version()
    parts = {each["Name"]: each["Version"] for each in version["Components"]}
    scenarios = {name: probe.observe(client, name) for name in probe.SCENARIOS}
    base = scenarios["default"]
    rest = {
        name: {
            key: words.get(key, "absent")
            for key in sorted({*base, *words})
            if words.get(key) != base.get(key)
        }
        for name, words in scenarios.items()
        if name != "default"
    }
    made = {
        "engine": f"dockerd {parts['Engine']}, containerd {parts['containerd']}, runc {parts.get('runc', '')}",
        "kernel": os.uname().release,
        "cgroups": f"version {client.info()['CgroupVersion']}",
    }
    sys.stdout.write(
        json.dumps({"made": made, "default": base, "differences": rest}, indent=1, sort_keys=True) + "\n"
    )
    client.images.remove(probe.IMAGE, force=True)


main()
