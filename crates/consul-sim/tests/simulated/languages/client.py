"""What a program in Python sees of the Consul at CONSUL_HTTP_ADDR, by the client py-consul."""
import base64
import concurrent.futures
import json
import os
import time

import consul

# As PATIENCE of consul-test-support.
PATIENCE = 300
host, port = os.environ["CONSUL_HTTP_ADDR"].split(":")
c = consul.Consul(host=host, port=int(port))


def text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def say(what, *seen):
    print(what + ":", *(json.dumps(one, sort_keys=True, default=text) for one in seen))


def refused(what, call, *arguments, **options):
    try:
        say(what, "was not refused", call(*arguments, **options))
    except consul.ConsulException as error:
        say(what, type(error).__name__, str(error))


def until(wanted, ask):
    """Asks until the answer is as wanted, or for long enough, and returns the last answer."""
    end = time.monotonic() + PATIENCE
    while not wanted(seen := ask()) and time.monotonic() < end:
        time.sleep(0.02)
    return seen


def keys():
    for name in ["b", "a", "dir/one", "dir/deep/two", "ä ?&=+%"]:
        say("put", c.kv.put("kv/" + name.replace("?", "%3F"), "value of " + name, flags=len(name)))
    index, one = c.kv.get("kv/a")
    say("a key", one, int(index) == one["ModifyIndex"])
    say("no key", c.kv.get("kv/none")[1])
    say("all", c.kv.get("kv/", recurse=True)[1])
    say("names", c.kv.get("kv/", keys=True)[1], c.kv.get("kv/", keys=True, separator="/")[1])
    say("cas", c.kv.put("kv/a", "new", cas=one["ModifyIndex"]), c.kv.put("kv/a", "late", cas=one["ModifyIndex"]))
    say("cas of a new key", c.kv.put("kv/new", b"\x00\xff".decode("latin-1"), cas=0), c.kv.put("kv/a", "x", cas=0))
    say("after it", c.kv.get("kv/a")[1])
    c.kv.put("kv/empty", "")
    say("an empty value", c.kv.get("kv/empty")[1])
    say("deleted", c.kv.delete("kv/a"), c.kv.delete("kv/none"), c.kv.get("kv/a")[1])
    say("deleted with cas", c.kv.delete("kv/b", cas=1), c.kv.delete("kv/b", cas=c.kv.get("kv/b")[1]["ModifyIndex"]))
    say("deleted with all below", c.kv.delete("kv/dir/", recurse=True), c.kv.get("kv/", keys=True)[1])
    refused("too large", c.kv.put, "kv/big", "x" * (512 * 1024 + 1))
    say("deleted all", c.kv.delete("kv/", recurse=True), c.kv.get("kv/", recurse=True)[1])


def transactions():
    def operation(verb, key, **others):
        return {"KV": {"Verb": verb, "Key": "txn/" + key, **others}}

    def value(of):
        return base64.b64encode(of.encode()).decode()

    put = [operation("set", "a", Value=value("1"), Flags=7), operation("cas", "b", Value=value("2"), Index=0)]
    say("written", c.txn.put(put))
    say("read", c.txn.put([operation("get", "a"), operation("get-tree", "")]))
    refused("not as expected", c.txn.put, [operation("delete", "a"), operation("check-index", "b", Index=1)])
    refused("unknown verb", c.txn.put, [operation("fly", "a")])
    say("unchanged", c.kv.get("txn/", keys=True)[1])
    c.kv.delete("txn/", recurse=True)


def sessions():
    mine = c.session.create(name="mine", ttl=30, behavior="delete", lock_delay=0)
    other = c.session.create(name="other", lock_delay=0)
    say("a session", c.session.info(mine)[1])
    say("all", sorted(one["Name"] for one in c.session.list()[1]))
    say("renewed", c.session.renew(mine))
    say("acquired", c.kv.put("lock", "mine", acquire=mine), c.kv.put("lock", "mine", acquire=mine))
    say("held", c.kv.put("lock", "other", acquire=other), c.kv.get("lock")[1])
    say("released", c.kv.put("lock", "", release=other), c.kv.put("lock", "free", release=mine))
    say("handed over", c.kv.put("lock", "other", acquire=other), c.kv.get("lock")[1])
    say("destroyed", c.session.destroy(other), c.kv.get("lock")[1])
    say("acquired again", c.kv.put("lock", "mine", acquire=mine), c.session.destroy(mine))
    say("deleted with its session", c.kv.get("lock")[1], c.session.info(mine)[1])
    refused("acquired by none", c.kv.put, "lock", "x", acquire=mine)
    refused("renewed without one", c.session.renew, mine)
    refused("a short TTL", c.http.put, consul.callback.CB.json(), "/v1/session/create", data='{"TTL": "1s"}')
    say("of nobody", c.session.info("nobody")[1])


def services():
    service = c.agent.service
    say("registered", service.register("web", service_id="web-1", address="192.0.2.1", port=8080, tags=["v1", "blue"],
                                       meta={"version": "1"}, check={"TTL": "60s", "Notes": "says so itself"}))

    def health(status):
        """The one instance, once it has this status."""
        def is_wanted(seen):
            return seen and all(check["Status"] == status for check in seen[0]["Checks"] if check["ServiceID"])
        return until(is_wanted, lambda: c.health.service("web")[1])

    say("at first", health("critical"), c.health.service("web", passing=True)[1])
    say("told", c.agent.check.ttl_pass("service:web-1", "alive"))
    say("passing", health("passing"), len(c.health.service("web", passing=True)[1]))
    say("by tag", [len(c.health.service("web", tag=tag)[1]) for tag in ["blue", "green"]])
    say("the agent's", c.agent.services(), c.agent.checks())
    say("checks", c.health.checks("web")[1])
    say("warning", c.agent.check.ttl_warn("service:web-1", "slow"), health("warning"))
    say("by state", c.health.state("warning")[1])
    say("in the catalog", c.catalog.service("web")[1], c.catalog.service("web", tag="green")[1])

    # A blocking query returns by an index alone, so it is repeated until the check fails.
    index = c.health.service("web")[0]

    def waits():
        seen = index
        while True:
            seen, found = c.health.service("web", index=seen, wait="20s")
            if any(check["Status"] == "critical" for check in found[0]["Checks"]):
                return int(seen) > int(index), found

    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(waits)
        time.sleep(0.3)
        say("waits", not waiting.done())
        c.agent.check.ttl_fail("service:web-1", "ill")
        say("woken", *waiting.result(PATIENCE))
    say("in maintenance", service.maintenance("web-1", True, "moving"),
        until(lambda seen: len(seen) == 2, lambda: c.health.checks("web")[1]))
    say("and out of it", service.maintenance("web-1", False),
        until(lambda seen: len(seen) == 1, lambda: c.health.checks("web")[1]))
    say("deregistered", service.deregister("web-1"),
        until(lambda seen: not seen, lambda: c.catalog.service("web")[1]))
    refused("no such check", c.agent.check.ttl_pass, "none")
    refused("no such service", service.deregister, "none")
    refused("no name", c.http.put, consul.callback.CB.boolean(), "/v1/agent/service/register", data="{}")


def catalog():
    say("registered", c.catalog.register(
        "db-node", "192.0.2.9", service={"Service": "db", "ID": "db-1", "Tags": ["main"], "Port": 5432},
        check={"Name": "up", "CheckID": "db-up", "ServiceID": "db-1", "Status": "passing"}))
    say("nodes", c.catalog.nodes()[1])
    say("services", c.catalog.services()[1])
    say("of a node", c.catalog.node("db-node")[1], c.catalog.node("none")[1])
    say("a service", c.catalog.service("db")[1])
    say("healthy", c.health.service("db", passing=True)[1], c.health.node("db-node")[1])
    say("datacenters", c.catalog.datacenters(), bool(c.status.leader()))
    refused("another datacenter", c.catalog.nodes, dc="elsewhere")
    say("deregistered", c.catalog.deregister("db-node"), c.catalog.service("db")[1])


for chapter in [keys, transactions, sessions, services, catalog]:
    print("\n#", chapter.__name__)
    chapter()
print("\nthe end")
