// A lock ends with its session, and the test does not sleep.
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.util.regex.Pattern;

class Lock {
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    static String call(String method, String url, String body) throws Exception {
        var publisher = body.isEmpty() ? BodyPublishers.noBody() : BodyPublishers.ofString(body);
        var request = HttpRequest.newBuilder(URI.create(url)).method(method, publisher).build();
        var answer = CLIENT.send(request, BodyHandlers.ofString());
        if (answer.statusCode() != 200) {
            throw new AssertionError(method + " " + url + ": " + answer.statusCode());
        }
        return answer.body();
    }

    public static void main(String[] arguments) throws Exception {
        var command = new ProcessBuilder("consul-sim", "agent", "-dev", "-http-port=0", "-sim-port=0");
        var sim = command.start();
        try (var output = new BufferedReader(new InputStreamReader(sim.getInputStream()))) {
            var urls = Pattern.compile("http://\\S+").matcher(output.readLine()).results()
                .map(found -> found.group()).toList();
            var agent = urls.get(0);
            var created = call("PUT", agent + "/v1/session/create", "{\"TTL\": \"10s\"}");
            var session = created.replaceAll("(?s).*\"ID\": *\"([^\"]*)\".*", "$1");
            call("PUT", agent + "/v1/kv/leader?acquire=" + session, "me");
            if (!call("GET", agent + "/v1/kv/leader", "").contains(session)) {
                throw new AssertionError("the lock is not held");
            }
            call("POST", urls.get(1) + "/sim/advance", "{\"by\": \"20s\"}");
            if (call("GET", agent + "/v1/kv/leader", "").contains("\"Session\"")) {
                throw new AssertionError("the lock is held");
            }
            System.out.println("the lock is free");
        } finally {
            sim.destroy();
        }
    }
}
