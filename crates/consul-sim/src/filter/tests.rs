//! The results of Consul 1.21.0 for these expressions and entries, from a server, or from its
//! library and types.

use super::schema;
use super::*;
use proptest::prelude::*;
use serde_json::json;

const PREFIX: &str = "Failed to create boolean expression evaluator: ";

/// The answers of `agent/services` and so on, reduced to the selected fields.
fn entries(of: &str) -> (&'static Schema, Value) {
    match of {
        "agent/services" => (
            &schema::AGENT_SERVICES,
            json!([
                {"ID": "web1", "Service": "web", "Tags": ["a", "b"],
                 "Meta": {"k": "v", "k-x": "ü", "n": "10"},
                 "Port": 8080, "Address": "10.0.0.1", "EnableTagOverride": false,
                 "TaggedAddresses": {"lan_ipv4": {"Address": "10.0.0.1", "Port": 8080}},
                 "Weights": {"Passing": 1, "Warning": 1}, "Datacenter": "dc1"},
                {"ID": "web2", "Service": "web", "Tags": ["b"], "Meta": {}, "Port": 0,
                 "Address": "", "EnableTagOverride": true, "Weights": {"Passing": 5, "Warning": 2}},
                {"ID": "api-1", "Service": "api", "Tags": [], "Meta": {}, "Port": 7, "Address": "",
                 "TaggedAddresses": {"lan": {"Address": "1.1.1.1", "Port": 3}},
                 "Weights": {"Passing": 1, "Warning": 1}, "Connect": {"Native": true}},
                {"Kind": "connect-proxy", "ID": "webp", "Service": "web-proxy", "Tags": [],
                 "Meta": {}, "Port": 20000, "Weights": {"Passing": 1, "Warning": 1},
                 "Proxy": {"DestinationServiceName": "web",
                 "Upstreams": [{"DestinationName": "db", "LocalBindPort": 9}],
                 "Expose": {"Paths": [{"ListenerPort": 21500, "Path": "/x"}]}}},
            ]),
        ),
        "agent/members" => (
            &schema::MEMBERS,
            json!([{"Name": "n1", "Addr": "127.0.0.1", "Port": 8301, "Tags": {"role": "consul"},
                    "Status": 1, "ProtocolMin": 1, "ProtocolMax": 5}]),
        ),
        "catalog/nodes" => (
            &schema::NODES,
            json!([
                {"ID": "", "Node": "ext", "Address": "10.9.9.9",
                 "TaggedAddresses": {"lan": "10.9.9.9"}, "Meta": {"os": "linux"}},
                {"ID": "", "Node": "bare", "Address": "10.9.9.8",
                 "TaggedAddresses": null, "Meta": null},
            ]),
        ),
        "catalog/service" => (
            &schema::CATALOG_SERVICES,
            json!([{"Node": "ext", "Address": "10.9.9.9", "NodeMeta": {"os": "linux"},
                    "ServiceID": "e2", "ServiceName": "web", "ServiceTags": ["t1"],
                    "ServiceMeta": {}, "ServicePort": 9,
                    "ServiceProxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
                    "ServiceConnect": {}}]),
        ),
        "catalog/node" => (
            &schema::NODE_SERVICES,
            json!([{"ID": "web", "Service": "web", "Tags": [], "Meta": null, "Address": "",
                    "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}}, "Connect": {},
                    "PeerName": ""}]),
        ),
        "health/service" => (
            &schema::INSTANCES,
            json!([
                {"Node": {"Node": "n1", "Meta": {"k": "v"}}, "Service": {"ID": "web1"},
                 "Checks": [{"CheckID": "serfHealth", "Status": "passing", "ServiceTags": []},
                            {"CheckID": "c", "Status": "critical", "ServiceTags": ["a"]}]},
                {"Node": {"Node": "ext", "Meta": null}, "Service": {"ID": "e2"}, "Checks": []},
            ]),
        ),
        "agent/checks" => (
            &schema::AGENT_CHECKS,
            json!([{"Node": "n1", "CheckID": "mem", "Status": "critical", "ServiceTags": []}]),
        ),
        "health/state" => (
            &schema::CHECKS,
            json!([{"Node": "n1", "CheckID": "mem", "Status": "critical", "ServiceTags": [],
                    "Definition": {}}]),
        ),
        other => panic!("no entries of {other}"),
    }
}

/// The positions of the kept entries, or the error.
fn kept(of: &str, expression: &str) -> Result<Vec<usize>, String> {
    let (schema, entries) = entries(of);
    let filter = Filter::compile(expression, schema)?;
    let mut kept = Vec::new();
    for (place, entry) in entries.as_array().expect("a list").iter().enumerate() {
        if filter.matches(entry)? {
            kept.push(place);
        }
    }
    Ok(kept)
}

fn assert_kept(of: &str, table: &[(&str, &[usize])]) {
    for (expression, places) in table {
        assert_eq!(kept(of, expression).as_deref(), Ok(*places), "{expression}");
    }
}

fn assert_refused(of: &str, table: &[(&str, &str)]) {
    for (expression, why) in table {
        assert_eq!(kept(of, expression), Err(format!("{PREFIX}{why}")), "{expression}");
    }
}

#[test]
fn every_operator_asks_of_the_types_it_has_a_meaning_for() {
    assert_kept(
        "agent/services",
        &[
            ("ID == web1", &[0]),
            ("ID != web1", &[1, 2, 3]),
            ("ID contains eb", &[0, 1, 3]),
            ("ID not contains eb", &[2]),
            ("\"eb\" in ID", &[0, 1, 3]),
            ("eb not in ID", &[2]),
            ("ID contains \"\"", &[0, 1, 2, 3]),
            ("ID matches \"^web[0-9]$\"", &[0, 1]),
            ("ID not matches \"^web[0-9]$\"", &[2, 3]),
            ("ID matches `(?i)WEB\\d`", &[0, 1]),
            ("Tags contains a", &[0]),
            ("Tags not contains a", &[1, 2, 3]),
            ("a in Tags", &[0]),
            ("a not in Tags", &[1, 2, 3]),
            ("\"\" in Tags", &[]),
            ("Tags is empty", &[2, 3]),
            ("Tags is not empty", &[0, 1]),
            ("Meta contains k", &[0]),
            ("k in Meta", &[0]),
            ("k not in Meta", &[1, 2, 3]),
            ("Meta is empty", &[1, 2, 3]),
            ("Meta is not empty", &[0]),
            ("Port == 8080", &[0]),
            ("Port != 8080", &[1, 2, 3]),
            ("EnableTagOverride == true", &[1]),
            ("EnableTagOverride == 1", &[1]),
            ("EnableTagOverride != TRUE", &[0, 2, 3]),
        ],
    );
    assert_refused(
        "agent/services",
        &[
            ("Tags == a", "Invalid match operator \"Equal\" for selector \"Tags\""),
            ("Tags != a", "Invalid match operator \"Not Equal\" for selector \"Tags\""),
            ("Meta == x", "Invalid match operator \"Equal\" for selector \"Meta\""),
            ("ID is empty", "Invalid match operator \"Is Empty\" for selector \"ID\""),
            (
                "Meta.k is not empty",
                "Invalid match operator \"Is Not Empty\" for selector \"Meta.k\"",
            ),
            ("80 in Port", "Invalid match operator \"In\" for selector \"Port\""),
            ("Port not contains 80", "Invalid match operator \"Not In\" for selector \"Port\""),
            ("Port matches \"80\"", "Invalid match operator \"Matches\" for selector \"Port\""),
            ("Tags not matches a", "Invalid match operator \"Not Matches\" for selector \"Tags\""),
            ("Weights == 5", "Invalid match operator \"Equal\" for selector \"Weights\""),
        ],
    );
}

#[test]
fn keys_of_maps_are_selected_by_dot_or_bracket() {
    assert_kept(
        "agent/services",
        &[
            ("Meta.k == v", &[0]),
            ("Meta[\"k\"] == v", &[0]),
            ("Meta[ `k-x` ] == \"ü\"", &[0]),
            ("Meta.n == 10", &[0]),
            ("TaggedAddresses.lan.Port == 3", &[2]),
            ("TaggedAddresses.lan.Port != 4", &[0, 1, 2, 3]),
            ("lan in TaggedAddresses", &[2]),
        ],
    );
}

#[test]
fn a_key_that_is_missing_equals_nothing_but_matches_everything() {
    assert_kept(
        "agent/services",
        &[
            ("Meta.none == v", &[]),
            ("Meta.none != v", &[0, 1, 2, 3]),
            ("Meta.none contains v", &[]),
            ("v not in Meta.none", &[0, 1, 2, 3]),
            ("Meta.none matches v", &[0, 1, 2, 3]),
            ("Meta.none not matches v", &[0, 1, 2, 3]),
        ],
    );
    assert_kept("catalog/nodes", &[("Meta is empty", &[1]), ("Meta.os == linux", &[0])]);
}

#[test]
fn and_binds_tighter_than_or_and_not_tighter_than_both() {
    assert_kept(
        "agent/services",
        &[
            ("ID == web1 or ID == web2 and Port == 8080", &[0]),
            ("(ID == web1 or ID == web2) and Port == 8080", &[0]),
            ("ID == web1 and Port == 1 or ID == web2", &[1]),
            ("not ID == web1 and Port == 0", &[1]),
            ("not (ID == web1 or ID == web2)", &[2, 3]),
            ("not not ID == web1", &[0]),
            ("not not not ID == web1", &[1, 2, 3]),
            ("(ID == web1) and (Port == 8080)", &[0]),
            (" ( ( ID==web1 ) ) ", &[0]),
            ("\tID\r\n!=\nweb1\n", &[1, 2, 3]),
            ("Tags is  not\tempty", &[0, 1]),
        ],
    );
}

#[test]
fn words_of_the_language_are_names_where_a_name_is_due() {
    for expression in ["not == x", "not matches x", "matches matches matches", "is is empty"] {
        let name = expression.split(' ').next().unwrap_or("");
        assert_refused(
            "agent/services",
            &[(expression, &format!("Selector \"{name}\" is not valid"))],
        );
    }
    assert_kept("agent/services", &[("in in Tags", &[]), ("not in Tags", &[]), ("ID == not", &[])]);
}

#[test]
fn values_are_bare_words_numbers_or_quoted_as_in_go() {
    assert_kept(
        "agent/services",
        &[
            ("ID == `web1`", &[0]),
            ("ID == \"\\x77eb\\u0031\"", &[0]),
            ("ID == \"\\167eb1\"", &[0]),
            ("ID == \"api-1\"", &[2]),
            ("ID == a.b[\"c d\"]", &[]),
            ("Port == \"0x1F90\"", &[0]),
            ("Port == \"8_080\"", &[0]),
            ("Port == \"017620\"", &[0]),
            ("Port == \"+8080\"", &[0]),
            ("Port == -1", &[]),
        ],
    );
    assert_refused(
        "agent/services",
        &[
            ("ID == \"\\q\"", "1:7 (6): rule \"string\": invalid syntax"),
            ("ID == \"a\nb\"", "1:7 (6): rule \"string\": invalid syntax"),
            ("ID == \"\\ud800\"", "1:7 (6): rule \"string\": invalid syntax"),
            (
                "Port == x",
                "Failed to coerce value \"x\" for selector \"Port\": \
                 strconv.ParseInt: parsing \"x\": invalid syntax",
            ),
            (
                "Port == 8080.0",
                "Failed to coerce value \"8080.0\" for selector \"Port\": \
                 strconv.ParseInt: parsing \"8080.0\": invalid syntax",
            ),
            (
                "Port == 9223372036854775808",
                "Failed to coerce value \"9223372036854775808\" for selector \"Port\": \
                 strconv.ParseInt: parsing \"9223372036854775808\": value out of range",
            ),
            (
                "EnableTagOverride == yes",
                "Failed to coerce value \"yes\" for selector \"EnableTagOverride\": \
                 strconv.ParseBool: parsing \"yes\": invalid syntax",
            ),
        ],
    );
}

#[test]
fn an_invalid_expression_is_refused_at_the_farthest_position() {
    assert_refused(
        "agent/services",
        &[
            ("Port > 80", "1:6 (5): no match found"),
            ("ID = web1", "1:4 (3): no match found"),
            ("ID == 'x'", "1:7 (6): no match found"),
            ("ID == ü", "1:7 (6): no match found"),
            ("bad", "1:4 (3): no match found"),
            ("ID == web1 && Port == 1", "1:12 (11): no match found"),
            ("ID == web1 \n💩", "2:1 (12): no match found"),
            ("ID == \"ü\" \n \n AND", "3:2 (15): no match found"),
            (".ID == x", "1:1 (0): no match found"),
            ("1 == 1", "1:3 (2): no match found"),
            ("Tags is not", "1:12 (11): no match found"),
            ("(ID == web1))", "1:13 (12): no match found"),
        ],
    );
}

#[test]
fn some_rules_say_what_is_wrong() {
    assert_refused(
        "agent/services",
        &[
            ("(ID == x", "1:9 (8): rule \"grouping\": Unmatched parentheses"),
            ("\"", "1:2 (1): rule \"string\": Unterminated string literal"),
            ("ID == `raw", "1:11 (10): rule \"string\": Unterminated string literal"),
            ("Tags[0] == a", "1:6 (5): rule \"index\": Invalid index"),
            ("Meta[\"k\" == v", "1:10 (9): rule \"index\": Unclosed index expression"),
            (
                "Meta[\"k == v",
                "1:13 (12): rule \"string\": Unterminated string literal\n\
                 1:6 (5): rule \"index\": Invalid index",
            ),
            ("Port == 0x1F", "1:10 (9): rule \"number\": Invalid number literal"),
            ("Port == 1.", "1:10 (9): rule \"number\": Invalid number literal"),
            ("a in 5", "1:6 (5): rule \"match\": Invalid selector"),
        ],
    );
}

#[test]
fn parentheses_may_nest_deeply() {
    let nested = |depth| format!("{}ID == web1{}", "(".repeat(depth), ")".repeat(depth));
    assert_eq!(kept("agent/services", &nested(60)), Ok(vec![0]));
    let error = kept("agent/services", &nested(100_000)).expect_err("too deep");
    assert!(error.ends_with("Parentheses nest too deeply"), "{error}");
    for text in ["not ", "ID == a or ", "ID == a and "] {
        assert!(kept("agent/services", &format!("{}ID == b", text.repeat(10_000))).is_ok());
    }
}

#[test]
fn selectors_are_those_of_the_go_structs() {
    for selector in
        ["Nope", "id", "ServiceName", "Datacenter", "CreateIndex", "Locality", "ContentHash"]
    {
        assert_refused(
            "agent/services",
            &[(&format!("{selector} == x"), &format!("Selector \"{selector}\" is not valid"))],
        );
    }
    assert_refused(
        "agent/services",
        &[
            ("Meta.k.x == v", "Selector \"Meta.k.x\" is not valid"),
            ("Service.x.y == v", "Selector \"Service.x\" is not valid"),
            ("Tags[\"0\"] == a", "Selector \"Tags.0\" is not valid"),
            ("Proxy.Config is empty", "Selector \"Proxy.Config\" is not valid"),
            ("Nope == x and Tags == y", "Selector \"Nope\" is not valid"),
        ],
    );
    assert_refused(
        "health/service",
        &[
            ("Node == ext", "Invalid match operator \"Equal\" for selector \"Node\""),
            ("Checks.Definition is empty", "Selector \"Checks.Definition\" is not valid"),
            ("Checks contains x", "Invalid match operator \"In\" for selector \"Checks\""),
        ],
    );
    assert_refused(
        "health/state",
        &[("Definition is empty", "Selector \"Definition\" is not valid")],
    );
}

#[test]
fn missing_fields_are_zero() {
    assert_kept("agent/services", &[("Kind == \"\" and SocketPath == \"\"", &[0, 1, 2])]);
    assert_kept(
        "catalog/service",
        &[
            ("ServiceProxy.AccessLogs.Enabled == false", &[0]),
            ("ServiceProxy.TransparentProxy.OutboundListenerPort == 0", &[0]),
            ("ServiceProxy.Upstreams is empty", &[0]),
            ("ServiceConnect.Native == false and PeerName == \"\"", &[0]),
            ("ServiceMeta is empty and NodeMeta.os == linux", &[0]),
        ],
    );
    assert_kept("catalog/node", &[("Port == 0 and Meta is empty", &[0]), ("Meta.k != x", &[0])]);
    assert_kept(
        "catalog/nodes",
        &[("Partition == \"\"", &[0, 1]), ("TaggedAddresses is empty", &[1])],
    );
}

#[test]
fn a_list_fits_when_one_of_its_items_does() {
    assert_kept(
        "health/service",
        &[
            ("Checks.Status == passing", &[0]),
            ("Checks.Status != passing", &[0]),
            ("not Checks.Status == passing", &[1]),
            ("Checks.Status == warning", &[]),
            ("Checks.ServiceTags contains a", &[0]),
            ("Checks.ServiceTags is empty", &[0]),
            ("Checks is empty", &[1]),
            ("Checks is not empty", &[0]),
            ("Node.Meta is empty and Service.ID == e2", &[1]),
        ],
    );
    assert_kept(
        "agent/services",
        &[
            ("Kind == \"connect-proxy\" and Proxy.Upstreams.DestinationName == db", &[3]),
            ("Kind == \"connect-proxy\" and Proxy.Upstreams.LocalBindPort != 9", &[]),
            ("Kind == \"connect-proxy\" and Proxy.Expose.Paths.ListenerPort == 21500", &[3]),
        ],
    );
}

/// A real agent closes the connection here.
#[test]
fn what_is_below_nothing_fits_no_comparison() {
    assert_kept(
        "agent/services",
        &[
            ("Connect.Native == true", &[2]),
            ("Connect.Native != true", &[]),
            ("Proxy.DestinationServiceName == web", &[3]),
            ("Proxy.TransparentProxy.DialedDirectly == false", &[]),
            ("Proxy.MeshGateway.Mode == \"\"", &[3]),
        ],
    );
}

#[test]
fn a_members_address_is_bytes_and_its_numbers_are_small() {
    assert_kept(
        "agent/members",
        &[
            ("127 in Addr", &[0]),
            ("Addr contains 7", &[]),
            ("Addr is not empty", &[0]),
            ("Status == 1 and Tags.role == consul", &[0]),
        ],
    );
    assert_refused(
        "agent/members",
        &[
            (
                "Port == 70000",
                "Failed to coerce value \"70000\" for selector \"Port\": \
                 strconv.ParseUint: parsing \"70000\": value out of range",
            ),
            (
                "Port == -1",
                "Failed to coerce value \"-1\" for selector \"Port\": \
                 strconv.ParseUint: parsing \"-1\": invalid syntax",
            ),
            (
                "256 in Addr",
                "Failed to coerce value \"256\" for selector \"Addr\": \
                 strconv.ParseUint: parsing \"256\": value out of range",
            ),
            ("Addr == \"127.0.0.1\"", "Invalid match operator \"Equal\" for selector \"Addr\""),
        ],
    );
}

#[test]
fn an_agents_checks_are_looked_at_before_the_filter_is_checked() {
    assert_refused("agent/checks", &[("a in 5", "1:6 (5): rule \"match\": Invalid selector")]);
    for (expression, error) in [
        ("Nope == x", "Selector \"Nope\" is not valid"),
        ("Name is empty", "Invalid match operator \"Is Empty\" for selector \"Name\""),
        (
            "Output matches \"[\"",
            "Failed to compile regular expression \"[\": \
             error parsing regexp: found unclosed character class: `[`",
        ),
    ] {
        assert!(Filter::compile(expression, &schema::AGENT_CHECKS).is_ok(), "{expression}");
        assert_eq!(kept("agent/checks", expression), Err(error.to_owned()));
    }
    assert_kept("agent/checks", &[("Status == critical", &[0])]);
}

proptest! {
    #[test]
    fn reading_never_panics(text in "\\PC*") {
        let _ = Filter::compile(&text, &schema::INSTANCES);
    }

    #[test]
    fn reading_what_is_nearly_an_expression_never_panics(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "ID", "Meta", "Tags", "Port", "not", "and", "or", "is", "in", "empty", "contains",
                "matches", "==", "!=", "(", ")", "[", "]", ".", "\"", "`", "\\", "0", "12", "-",
                " ", "\n", "ü", "*", "{2}", "\\x", "\\u12", "\\p{", "(?i", "[^",
            ]),
            0..24,
        ),
    ) {
        let _ = kept("agent/services", &parts.concat());
    }

    #[test]
    fn a_text_is_found_by_its_quoted_form(text in "[^\"]*") {
        let quoted = format!("ID == {}", crate::go::quoted(&text));
        let filter = Filter::compile(&quoted, &schema::AGENT_SERVICES).expect("an expression");
        prop_assert_eq!(filter.matches(&json!({"ID": text})), Ok(true));
    }
}
