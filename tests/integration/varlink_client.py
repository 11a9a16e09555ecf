"""An independent client of the control socket: the `varlink` package from PyPI.

Usage: varlink_client.py SOCKET. Prints one JSON object with what it saw. Exits with an error if a reply does not have
exactly the fields and types of the interface description, as that package reads it.
"""

import json
import socket
import sys

import varlink
from varlink import scanner

INTERFACE = "io.mcr.Control"
READING = [
    "GetVersion", "Ping", "ListRules", "GetConfig", "ListWorkers", "ListInterfaces", "ListMemberships", "GetStats",
    "GetLogLevels", "GetStatus",
]


def raw_call(path, method, parameters):
    """A call past the package, so that nothing filters the reply."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(30)
        stream.connect(path)
        call = {"method": INTERFACE + "." + method, "parameters": parameters}
        stream.sendall(json.dumps(call).encode() + b"\0")
        reply = b""
        while not reply.endswith(b"\0"):
            chunk = stream.recv(65536)
            if not chunk:
                raise SystemExit(method + ": the connection ended")
            reply += chunk
    reply = json.loads(reply[:-1])
    if "error" in reply:
        raise SystemExit(f"{method}: {reply}")
    return reply.get("parameters", {})


def check(interface, place, kind, value):
    """That a value has exactly the declared type."""
    if isinstance(kind, scanner._Maybe):
        if value is not None:
            check(interface, place, kind.element_type, value)
        return
    if isinstance(kind, scanner._CustomType):
        check(interface, place, interface.members[kind.name].type, value)
        return
    wanted = None
    if isinstance(kind, scanner._Object):
        return
    if isinstance(kind, scanner._Array):
        if isinstance(value, list):
            for index, item in enumerate(value):
                check(interface, f"{place}[{index}]", kind.element_type, item)
            return
        wanted = "array"
    elif isinstance(kind, scanner._Dict):
        if isinstance(value, dict):
            for key, item in value.items():
                check(interface, f"{place}[{key}]", kind.element_type, item)
            return
        wanted = "dictionary"
    elif isinstance(kind, scanner._Enum):
        if value in list(kind.fields):
            return
        wanted = "one of " + ", ".join(kind.fields)
    elif isinstance(kind, scanner._Struct):
        if isinstance(value, dict) and set(value) <= set(kind.fields):
            for name, field in kind.fields.items():
                if name not in value and not isinstance(field, scanner._Maybe):
                    raise SystemExit(f"{place}.{name} is missing")
                check(interface, f"{place}.{name}", field, value.get(name))
            return
        wanted = "exactly the fields " + ", ".join(kind.fields)
    else:
        fits = {bool: (bool,), int: (int,), float: (float, int), str: (str,)}[type(kind)]
        if isinstance(value, fits) and isinstance(value, bool) == isinstance(kind, bool):
            return
        wanted = type(kind).__name__
    raise SystemExit(f"{place}: {value!r} is not {wanted}")


def main(path):
    seen = {}
    with varlink.Client.new_with_address("unix:" + path) as client:
        interface = client.get_interface(INTERFACE)
        seen["description"] = interface.get_description()
        for method in READING:
            reply = raw_call(path, method, {})
            check(interface, method, interface.get_method(method).out_type, reply)
        with client.open(INTERFACE) as control:
            seen["before"] = [rule["id"] for rule in control.ListRules()["rules"]]
            added = control.AddRule({
                "name": "from-python",
                "input": {"interface": "eth0", "group": "239.9.9.9", "port": 9000, "sources": ["10.1.0.1"]},
                "outputs": [{"interface": "eth1", "group": "239.9.9.10", "port": 9001, "ttl": "decrement"}],
            })
            seen["added"] = added["id"]
            seen["after"] = [rule["id"] for rule in control.ListRules()["rules"]]
            seen["rule"] = [rule for rule in control.ListRules()["rules"] if rule["id"] == added["id"]][0]
            try:
                control.RemoveRule(None, "no-such-rule")
            except varlink.VarlinkError as error:
                seen["error"] = error.error()
            with client.open(INTERFACE) as watching:
                seen["streamed"] = 0
                for _ in watching.GetStats(_more=True):
                    seen["streamed"] += 1
                    if seen["streamed"] == 2:
                        break
    check(interface, "ListRules", interface.get_method("ListRules").out_type, raw_call(path, "ListRules", {}))
    print(json.dumps(seen))


main(sys.argv[1])
