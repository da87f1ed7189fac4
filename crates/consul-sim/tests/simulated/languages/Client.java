// What a program in Java sees of the Consul at CONSUL_HTTP_ADDR, by the client org.kiwiproject:consul-client.
import com.google.common.net.HostAndPort;
import java.math.BigInteger;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.function.Predicate;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.kiwiproject.consul.Consul;
import org.kiwiproject.consul.ConsulException;
import org.kiwiproject.consul.model.State;
import org.kiwiproject.consul.model.agent.ImmutableRegistration;
import org.kiwiproject.consul.model.agent.Registration;
import org.kiwiproject.consul.model.catalog.ImmutableCatalogDeregistration;
import org.kiwiproject.consul.model.catalog.ImmutableCatalogRegistration;
import org.kiwiproject.consul.model.health.ImmutableService;
import org.kiwiproject.consul.model.health.ServiceHealth;
import org.kiwiproject.consul.model.kv.ImmutableOperation;
import org.kiwiproject.consul.model.kv.Operation;
import org.kiwiproject.consul.model.kv.Verb;
import org.kiwiproject.consul.model.session.ImmutableSession;
import org.kiwiproject.consul.option.ImmutableDeleteOptions;
import org.kiwiproject.consul.option.ImmutablePutOptions;
import org.kiwiproject.consul.option.ImmutableQueryOptions;
import org.kiwiproject.consul.option.PutOptions;
import org.kiwiproject.consul.option.QueryOptions;

class Client {
    static final long PATIENCE_MS = 300_000;
    static final Consul CONSUL = Consul.builder()
        .withHostAndPort(HostAndPort.fromString(System.getenv("CONSUL_HTTP_ADDR")))
        .withReadTimeoutMillis(PATIENCE_MS + 10_000)
        .build();

    interface Call {
        void run() throws Exception;
    }

    static void say(String what, Object... seen) {
        System.out.println(what + ": " + Arrays.stream(seen).map(String::valueOf).collect(Collectors.joining(" ")));
    }

    static void refused(String what, Call call) {
        try {
            call.run();
            say(what, "was not refused");
        } catch (ConsulException error) {
            say(what, error.hasCode() ? error.getCode() : "no status", error.getMessage());
        } catch (Exception error) {
            say(what, error);
        }
    }

    /** Asks until the answer is as wanted, or for long enough, and returns the last answer. */
    static <T> T until(Predicate<T> wanted, Supplier<T> ask) throws InterruptedException {
        var end = System.currentTimeMillis() + PATIENCE_MS;
        while (true) {
            var seen = ask.get();
            if (wanted.test(seen) || System.currentTimeMillis() > end) {
                return seen;
            }
            Thread.sleep(20);
        }
    }

    static void keys() {
        var kv = CONSUL.keyValueClient();
        for (var name : List.of("b", "a", "dir/one", "dir/deep/two", "ä &=+%")) {
            say("put", kv.putValue("kv/" + name, "value of " + name, name.length()));
        }
        var one = kv.getValue("kv/a").orElseThrow();
        say("a key", one, one.getValueAsString(), kv.getValueAsString("kv/ä &=+%"));
        say("no key", kv.getValue("kv/none"));
        say("all", kv.getValues("kv/"));
        say("names", kv.getKeys("kv/"), kv.getKeys("kv/", "/"));
        Function<Long, PutOptions> cas = index -> ImmutablePutOptions.builder().cas(index).build();
        var index = one.getModifyIndex();
        say("cas", kv.putValue("kv/a", "new", 0, cas.apply(index)), kv.putValue("kv/a", "late", 0, cas.apply(index)));
        say("cas of a new key", kv.putValue("kv/new", "", 0, cas.apply(0L)), kv.putValue("kv/a", "", 0, cas.apply(0L)));
        say("after it", kv.getValue("kv/a"), kv.getValueAsString("kv/a"), kv.getValue("kv/new"));
        kv.deleteKey("kv/a");
        kv.deleteKey("kv/none");
        kv.deleteKey("kv/b", ImmutableDeleteOptions.builder().cas(1).build());
        say("deleted", kv.getKeys("kv/"));
        refused("too large", () -> kv.putValue("kv/big", "x".repeat(512 * 1024 + 1)));
        kv.deleteKeys("kv/");
        say("deleted all", kv.getValues("kv/"));
    }

    static Operation operation(Verb verb, String key, String value, Integer index) {
        var operation = ImmutableOperation.builder().verb(verb.toValue()).key("txn/" + key);
        if (value != null) {
            operation.value(value).flags(7L);
        }
        if (index != null) {
            operation.index(BigInteger.valueOf(index));
        }
        return operation.build();
    }

    static void transactions() {
        var kv = CONSUL.keyValueClient();
        say("written", kv.performTransaction(
            operation(Verb.SET, "a", "1", null), operation(Verb.CHECK_AND_SET, "b", "2", 0)).getResponse());
        say("read", kv.performTransaction(
            operation(Verb.GET, "a", null, null), operation(Verb.GET_TREE, "", null, null)).getResponse());
        refused("not as expected", () -> say("its answer", kv.performTransaction(
            operation(Verb.DELETE, "a", null, null), operation(Verb.CHECK_INDEX, "b", null, 1)).getResponse()));
        say("unchanged", kv.getKeys("txn/"), kv.getValueAsString("txn/b"));
        kv.deleteKeys("txn/");
    }

    static void sessions() throws Exception {
        var kv = CONSUL.keyValueClient();
        var sessions = CONSUL.sessionClient();
        var definition = ImmutableSession.builder().lockDelay("1ms");
        var other = sessions.createSession(definition.name("other").build()).getId();
        var mine = sessions.createSession(definition.name("mine").ttl("30s").behavior("delete").build()).getId();
        say("a session", sessions.getSessionInfo(mine), sessions.renewSession(mine));
        say("all", sessions.listSessions().stream().map(one -> one.getName().orElse("")).sorted().toList());
        say("acquired", kv.acquireLock("lock", "held", mine), kv.acquireLock("lock", "held", mine));
        say("held", kv.acquireLock("lock", "held", other), kv.getValue("lock"), kv.getSession("lock").isPresent());
        say("released", kv.releaseLock("lock", other), kv.releaseLock("lock", mine), kv.getSession("lock"));
        say("handed over", kv.acquireLock("lock", "other", other), kv.getValueAsString("lock"));
        sessions.destroySession(other);
        say("destroyed", kv.getValue("lock"));
        say("acquired again", until(held -> held, () -> kv.acquireLock("lock", "held", mine)));
        sessions.destroySession(mine);
        say("deleted with its session", kv.getValue("lock"), sessions.getSessionInfo(mine));
        refused("acquired by none", () -> kv.acquireLock("lock", "held", mine));
        refused("renewed without one", () -> say("its answer", sessions.renewSession(mine)));
        refused("a short TTL", () -> sessions.createSession(ImmutableSession.builder().ttl("1s").build()));
    }

    static List<ServiceHealth> instances() {
        return CONSUL.healthClient().getAllServiceInstances("web").getResponse();
    }

    static boolean is(List<ServiceHealth> seen, String status) {
        return seen.size() == 1 && seen.get(0).getChecks().stream()
            .allMatch(check -> check.getServiceId().orElse("").isEmpty() || check.getStatus().equals(status));
    }

    static void services() throws Exception {
        var agent = CONSUL.agentClient();
        var health = CONSUL.healthClient();
        agent.register(ImmutableRegistration.builder().name("web").id("web-1").address("192.0.2.1").port(8080)
            .addTags("v1", "blue").putMeta("version", "1").check(Registration.RegCheck.ttl(60)).build());
        say("at first", until(seen -> is(seen, "critical"), Client::instances),
            health.getHealthyServiceInstances("web").getResponse());
        agent.pass("web-1", "alive");
        say("passing", until(seen -> is(seen, "passing"), Client::instances),
            health.getHealthyServiceInstances("web").getResponse().size());
        say("by tag", health.getAllServiceInstances("web",
            ImmutableQueryOptions.builder().addTag("green").build()).getResponse());
        say("the agent's", agent.getServices(), agent.getChecks());
        agent.warn("web-1", "slow");
        say("warning", until(seen -> is(seen, "warning"), Client::instances));
        say("by state", health.getChecksByState(State.WARN).getResponse(), health.getServiceChecks("web").getResponse());
        say("in the catalog", CONSUL.catalogClient().getService("web").getResponse());

        var index = health.getAllServiceInstances("web").getIndex();
        var waiting = CompletableFuture.supplyAsync(() -> {
            var seen = health.getAllServiceInstances("web", QueryOptions.blockSeconds(20, index).build());
            while (!is(seen.getResponse(), "critical")) {
                seen = health.getAllServiceInstances("web", QueryOptions.blockSeconds(20, seen.getIndex()).build());
            }
            return seen;
        });
        Thread.sleep(300);
        say("waits", !waiting.isDone());
        agent.fail("web-1", "ill");
        var woken = waiting.get(PATIENCE_MS, TimeUnit.MILLISECONDS);
        say("woken", woken.getIndex().compareTo(index) > 0, woken.getResponse());
        agent.toggleMaintenanceMode("web-1", true, "moving");
        say("in maintenance", until(seen -> seen.size() == 2, () -> health.getServiceChecks("web").getResponse()));
        agent.toggleMaintenanceMode("web-1", false);
        say("and out of it", until(seen -> seen.size() == 1, () -> health.getServiceChecks("web").getResponse()));
        agent.deregister("web-1");
        say("deregistered", until(List::isEmpty, Client::instances));
        refused("no such check", () -> agent.pass("none"));
        refused("no such service", () -> agent.deregister("none"));
    }

    static void catalog() {
        var catalog = CONSUL.catalogClient();
        catalog.register(ImmutableCatalogRegistration.builder().node("db-node").address("192.0.2.9")
            .putNodeMeta("rack", "r1").service(ImmutableService.builder()
                .service("db").id("db-1").addTags("main").port(5432).address("").build())
            .build());
        say("nodes", catalog.getNodes().getResponse());
        say("services", new TreeMap<>(Map.copyOf(catalog.getServices().getResponse())));
        say("of a node", catalog.getNode("db-node").getResponse());
        say("a service", catalog.getService("db").getResponse());
        say("healthy", CONSUL.healthClient().getHealthyServiceInstances("db").getResponse(),
            CONSUL.healthClient().getNodeChecks("db-node").getResponse());
        say("datacenters", catalog.getDatacenters(), CONSUL.statusClient().getPeers().size());
        refused("another datacenter",
            () -> catalog.getNodes(ImmutableQueryOptions.builder().datacenter("elsewhere").build()));
        catalog.deregister(ImmutableCatalogDeregistration.builder().node("db-node").build());
        say("deregistered", catalog.getService("db").getResponse());
    }

    public static void main(String[] arguments) throws Exception {
        var chapters = new Object[][] {
            {"keys", (Call) Client::keys}, {"transactions", (Call) Client::transactions},
            {"sessions", (Call) Client::sessions}, {"services", (Call) Client::services},
            {"catalog", (Call) Client::catalog},
        };
        for (var chapter : chapters) {
            System.out.println("\n# " + chapter[0]);
            ((Call) chapter[1]).run();
        }
        System.out.println("\nthe end");
        System.exit(0);
    }
}
