//! Checks that the agent runs itself.

use crate::target::{T, args, behaviours, list, pause, table, text};
use consul_api::value::Value;
use futures_util::future::select;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

behaviours![
    a_tcp_check_passes_while_the_port_is_open,
    the_status_of_an_http_answer_is_the_state,
    an_http_check_sends_its_method_headers_and_body,
    an_http_check_follows_redirects_unless_it_says_not_to,
    the_url_of_an_http_check_is_sent_as_go_sends_it,
    a_check_of_a_service_has_other_members_than_others,
    the_checks_of_a_service_show_their_interval_and_timeout,
    the_first_result_counts_at_once,
    an_alias_fails_with_its_service,
    an_alias_of_an_unknown_service_is_critical,
    an_alias_of_a_node_follows_its_checks,
    an_alias_of_an_unknown_node_passes,
];

/// Registers a check of a new service: a failing check of the node would make the services of
/// concurrent behaviours fail.
async fn register(t: &T, name: &str, kind: Value) {
    t.ok("agent_service_register", args![table! {"Name" = t.name("of-checks")}]).await;
    let service = ("ServiceID".to_owned(), t.name("of-checks").into());
    let mut check = vec![("Name".to_owned(), t.name(name).into()), service];
    let Value::Map(members) = kind else { panic!("a table") };
    check.extend(members);
    t.ok("agent_check_register", args![Value::Map(check)]).await;
}

async fn deregister(t: &T, name: &str) {
    t.ok("agent_check_deregister", args![t.name(name)]).await;
    t.ok("agent_service_deregister", args![t.name("of-checks")]).await;
}

async fn state(t: &T, name: &str) -> (String, String) {
    let checks = t.value("agent_checks", args![]).await;
    let check = checks.get(&t.name(name)).expect("the check is registered");
    (text(check, "Status").to_owned(), text(check, "Output").to_owned())
}

async fn becomes(t: &T, name: &str, status: &str, output: &str) {
    t.until(&format!("{status}: {output}"), || async {
        let (found, says) = state(t, name).await;
        found == status && says.contains(output)
    })
    .await;
}

/// A server that answers with the status and, as the body, the request; returns its address.
async fn serve(status: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let asked = String::from_utf8_lossy(&request[..length]).replace("\r\n", "|");
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{asked}",
                asked.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}

async fn a_tcp_check_passes_while_the_port_is_open(t: T) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    register(&t, "c", table! {"TCP" = address.as_str(), "Interval" = "1s"}).await;
    becomes(&t, "c", "passing", &format!("TCP connect {address}: Success")).await;
    drop(listener);
    let why = format!("dial tcp {address}: connect: connection refused");
    becomes(&t, "c", "critical", &why).await;
    deregister(&t, "c").await;
}

async fn the_status_of_an_http_answer_is_the_state(t: T) {
    for (status, state) in [
        ("200 OK", "passing"),
        ("429 Too Many Requests", "warning"),
        ("500 Internal Server Error", "critical"),
    ] {
        let url = format!("http://{}/health", serve(status).await);
        register(&t, state, table! {"HTTP" = url.as_str(), "Interval" = "1s"}).await;
        let output = format!("HTTP GET {url}: {status} Output: GET /health HTTP/1.");
        becomes(&t, state, state, &output).await;
        deregister(&t, state).await;
    }
}

async fn an_http_check_sends_its_method_headers_and_body(t: T) {
    let url = format!("http://{}/", serve("200 OK").await);
    let check = table! {
        "HTTP" = url.as_str(), "Interval" = "1s", "Method" = "POST",
        "Header" = table! {"X-Test" = list!["yes"]},
    };
    register(&t, "c", check).await;
    becomes(&t, "c", "passing", "Output: POST / HTTP/1.").await;
    let (_, output) = state(&t, "c").await;
    assert!(output.contains("|X-Test: yes|"), "{output}");
    assert!(output.contains("|User-Agent: Consul Health Check|"), "{output}");
    deregister(&t, "c").await;
}

async fn an_http_check_follows_redirects_unless_it_says_not_to(t: T) {
    let target = format!("http://{}/there", serve("200 OK").await);
    let status: &'static str = format!("307 Temporary Redirect\r\nLocation: {target}").leak();
    let url = format!("http://{}/", serve(status).await);
    register(&t, "follows", table! {"HTTP" = url.as_str(), "Interval" = "1s"}).await;
    let output = format!("HTTP GET {url}: 200 OK Output: GET /there HTTP/1.");
    becomes(&t, "follows", "passing", &output).await;
    deregister(&t, "follows").await;
    if t.is_1_8("the field DisableRedirects is not known") {
        return;
    }
    let check = table! {"HTTP" = url.as_str(), "Interval" = "1s", "DisableRedirects" = true};
    register(&t, "stays", check).await;
    becomes(&t, "stays", "critical", &format!("HTTP GET {url}: 307 Temporary Redirect")).await;
    deregister(&t, "stays").await;
}

async fn the_checks_of_a_service_show_their_interval_and_timeout(t: T) {
    let check = table! {
        "CheckID" = t.name("own"), "TCP" = "127.0.0.1:1", "Interval" = "90s", "Timeout" = "3s",
    };
    let service = table! {"Name" = t.name("s"), "Check" = check};
    t.ok("agent_service_register", args![service]).await;
    let checks = t.value("agent_checks", args![]).await;
    let check = checks.get(&t.name("own")).expect("the check is registered");
    if t.is_1_8("the interval and timeout of a check are not shown") {
        assert_eq!(check.get("Interval"), None);
    } else {
        assert_eq!((text(check, "Interval"), text(check, "Timeout")), ("1m30s", "3s"));
    }
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn the_first_result_counts_at_once(t: T) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let check = table! {
        "TCP" = address, "Interval" = "1s", "Status" = "passing", "FailuresBeforeCritical" = 100,
    };
    register(&t, "c", check).await;
    becomes(&t, "c", "critical", "connection refused").await;
    deregister(&t, "c").await;
}

// The checks of the node count for an alias too, so only the failure can be tested while other
// behaviours have checks on the node.
async fn an_alias_fails_with_its_service(t: T) {
    let check = table! {"CheckID" = t.name("ttl"), "Name" = "own", "TTL" = "1m"};
    let service = table! {"Name" = t.name("s"), "Check" = check};
    t.ok("agent_service_register", args![service]).await;
    register(&t, "c", table! {"AliasService" = t.name("s")}).await;
    becomes(&t, "c", "critical", "Aliased check").await;
    deregister(&t, "c").await;
    t.ok("agent_service_deregister", args![t.name("s")]).await;
}

async fn an_alias_of_an_unknown_service_is_critical(t: T) {
    if t.is_1_8("an alias of a service that does not exist passes") {
        return;
    }
    register(&t, "c", table! {"AliasService" = t.name("none")}).await;
    let why = format!("Service {} could not be found", t.name("none"));
    becomes(&t, "c", "critical", &why).await;
    deregister(&t, "c").await;
}

async fn an_alias_of_an_unknown_node_passes(t: T) {
    if t.is_1_8("the process of the agent can end when an alias of another node does") {
        return;
    }
    let alias = table! {"AliasNode" = t.name("none"), "AliasService" = t.name("s")};
    register(&t, "c", alias).await;
    becomes(&t, "c", "passing", "No checks found.").await;
    let put = || {
        t.ok("catalog_register", args![table! {"Node" = t.name("none"), "Address" = "10.0.0.1"}])
    };
    put().await;
    // A real agent looks again, and ends the check, with the next change of the node.
    let changes = async {
        for number in 0.. {
            let meta = table! {"n" = number.to_string()};
            let body = table! {"Node" = t.name("none"), "Address" = "10.0.0.1", "NodeMeta" = meta};
            t.ok("catalog_register", args![body]).await;
            pause(Duration::from_millis(50)).await;
        }
    };
    select(pin!(deregister(&t, "c")), pin!(changes)).await;
    t.deregister(&["none"]).await;
}

async fn an_alias_of_a_node_follows_its_checks(t: T) {
    let node = t.name("n");
    let put = |status: &'static str| {
        let check = table! {"Name" = "c", "Status" = status, "Output" = "why"};
        let body = table! {"Node" = node.as_str(), "Address" = "10.0.0.1", "Check" = check};
        t.ok("catalog_register", args![body])
    };
    put("passing").await;
    register(&t, "c", table! {"AliasNode" = node.as_str()}).await;
    becomes(&t, "c", "passing", "All checks passing.").await;
    put("critical").await;
    becomes(&t, "c", "critical", "Aliased check \"c\" failing: why").await;
    if t.is_1_8("the process of the agent can end when an alias of another node does") {
        return;
    }
    // A real agent ends the check with the next change of the node.
    let changes = async {
        for status in ["passing", "critical"].into_iter().cycle() {
            put(status).await;
            pause(Duration::from_millis(50)).await;
        }
    };
    select(pin!(deregister(&t, "c")), pin!(changes)).await;
    t.ok("catalog_deregister", args![table! {"Node" = node.as_str()}]).await;
}

async fn the_url_of_an_http_check_is_sent_as_go_sends_it(t: T) {
    let address = serve("200 OK").await;
    for (number, (user, place, line, header)) in [
        ("ann:p%40x@", "/private", "GET /private HTTP/1.1|", "|Authorization: Basic YW5uOnBAeA==|"),
        ("", "?q=1", "GET /?q=1 HTTP/1.1|", "|Host: "),
        ("", "/a b/\u{e9}\"", "GET /a%20b/%C3%A9%22 HTTP/1.1|", "|Host: "),
        ("", "/a/..//b%2F!'()*[]#c", "GET /a/..//b%2F!'()*[] HTTP/1.1|", "|Host: "),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("c{number}");
        let url = format!("http://{user}{address}{place}");
        register(&t, &name, table! {"HTTP" = url.as_str(), "Interval" = "1s"}).await;
        becomes(&t, &name, "passing", line).await;
        let (_, output) = state(&t, &name).await;
        assert!(output.contains(&format!("|Host: {address}|")), "{output}");
        assert!(output.contains(header), "{output}");
        deregister(&t, &name).await;
    }
    for place in ["/%zz", "/a%", "/#%1"] {
        let url = format!("http://{address}{place}");
        register(&t, "c", table! {"HTTP" = url.as_str(), "Interval" = "1s"}).await;
        becomes(&t, "c", "critical", "invalid URL escape \"%").await;
        deregister(&t, "c").await;
    }
}

async fn a_check_of_a_service_has_other_members_than_others(t: T) {
    if t.is_1_8("some members are unknown") {
        return;
    }
    let target = "/v1/agent/service/register";
    for (member, is_of_a_service, is_of_others) in [
        ("\"ProxyHTTP\": \"x\"", true, false),
        ("\"ProxyGRPC\": \"x\"", true, false),
        ("\"disable_redirects\": true", false, true),
        ("\"DisableRedirects\": true", true, true),
    ] {
        let name = t.name("x");
        let check = format!("{{\"Name\": {name:?}, \"TTL\": \"90s\", {member}}}");
        let service = format!("{{\"Name\": {name:?}, \"Check\": {check}}}");
        let answer = t.raw("PUT", target, &service).await;
        assert_eq!(answer.status == 200, is_of_a_service, "{service}: {}", answer.body);
        let in_list = format!("{{\"Name\": {name:?}, \"Checks\": [{check}]}}");
        let answer = t.raw("PUT", target, &in_list).await;
        assert_eq!(answer.status == 200, is_of_a_service, "{in_list}: {}", answer.body);
        t.raw("PUT", &format!("/v1/agent/service/deregister/{name}"), "").await;
        let answer = t.raw("PUT", "/v1/agent/check/register", &check).await;
        assert_eq!(answer.status == 200, is_of_others, "{check}: {}", answer.body);
        t.raw("PUT", &format!("/v1/agent/check/deregister/{name}"), "").await;
    }
}
