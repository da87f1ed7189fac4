// What a program with Spring Cloud Consul sees: a value of its configuration, services, and their instances.
package observe;

import java.util.List;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.cloud.client.discovery.DiscoveryClient;
import org.springframework.cloud.context.config.annotation.RefreshScope;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PathVariable;
import org.springframework.web.bind.annotation.RestController;

@SpringBootApplication
@RestController
@RefreshScope
public class Observe {
    private final DiscoveryClient discovery;
    private final String value;

    Observe(DiscoveryClient discovery, @Value("${observed:none}") String value) {
        this.discovery = discovery;
        this.value = value;
    }

    @GetMapping("/value")
    String value() {
        return value;
    }

    @GetMapping("/services")
    List<String> services() {
        return discovery.getServices().stream().sorted().toList();
    }

    @GetMapping("/instances/{service}")
    List<String> instances(@PathVariable String service) {
        return discovery.getInstances(service).stream()
            .map(one -> one.getInstanceId() + " " + one.getHost() + ":" + one.getPort() + " " + one.getMetadata())
            .sorted().toList();
    }

    public static void main(String[] arguments) {
        SpringApplication.run(Observe.class, arguments);
    }
}
