//! DNS: names of services, nodes, queries and addresses, as any resolver asks for them.

use crate::acl::token;
use crate::support::dns::{self, answers, code, question, section};
use crate::target::{T, args, behaviours, table, text};
use consul_sim::acl::DefaultPolicy::Deny;
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::RecordType::{A, AAAA, ANY, AXFR, MX, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::rdata::opt::{ClientSubnet, EdnsCode, EdnsOption};
use hickory_proto::rr::{Name, RecordType};
use std::collections::BTreeSet;

behaviours![
    a_service_has_addresses,
    critical_instances_have_no_address,
    a_port_has_a_weight_and_a_node,
    an_instance_may_have_its_own_address,
    tags_choose_instances,
    a_node_has_an_address_and_metadata,
    an_unknown_name_does_not_exist,
    a_name_may_have_no_data_of_a_type,
    the_domain_has_an_authority,
    an_address_may_be_a_name,
    names_that_lead_in_circles_end,
    an_address_is_answered_once,
    an_address_has_a_name,
    addresses_are_found_in_reverse,
    a_query_is_executed,
    only_the_answer_of_a_query_is_for_a_network,
    the_mesh_has_names,
    a_virtual_address_ends_with_its_holders,
    answers_over_udp_are_short,
    instances_come_in_random_order,
    names_keep_their_capitals,
    a_name_with_a_space_is_not_found,
    other_domains_are_refused,
    a_transfer_is_not_possible,
    dns_has_a_token,
    callers_without_permission_learn_what_is_unknown,
];

async fn ask(t: &T, name: &str, kind: RecordType) -> Message {
    dns::over_udp(t.dns(), &question(name, kind))
}

/// Registers a node with these further fields.
async fn register(t: &T, node: &str, address: &str, fields: &str) {
    let node = t.name(node);
    let body = format!(r#"{{"Node":"{node}","Address":"{address}"{fields}}}"#);
    let answer = t.raw("PUT", "/v1/catalog/register", &body).await;
    assert_eq!(answer.body, "true", "{body}");
}

/// An instance of the service `s` with these further fields.
fn service(t: &T, fields: &str) -> String {
    format!(r#","Service":{{"Service":"{}","Port":80{fields}}}"#, t.name("s"))
}

fn check(status: &str) -> String {
    format!(r#","Check":{{"Name":"c","Status":"{status}"}}"#)
}

async fn a_service_has_addresses(t: T) {
    register(&t, "n", "10.0.0.1", &service(&t, "")).await;
    register(&t, "m", "10.0.0.2", &service(&t, r#","Address":"10.0.0.3""#)).await;
    register(&t, "o", "2001:db8::1", &service(&t, "")).await;
    let four = ["A 10.0.0.1", "A 10.0.0.3"];
    for place in ["", ".dc1", ".dc1.dc"] {
        if place == ".dc1.dc" && t.is_1_8("a name does not say that a label is a datacenter") {
            continue;
        }
        let name = format!("{}.service{place}.consul.", t.name("s"));
        let reply = ask(&t, &name, A).await;
        assert_eq!(
            (code(&reply), answers(&reply)),
            (ResponseCode::NoError, four.map(str::to_owned).to_vec())
        );
        assert!(reply.metadata.authoritative && reply.metadata.recursion_desired);
        assert!(!reply.metadata.recursion_available && !reply.metadata.truncation);
        assert_eq!(reply.answers[0].name, Name::from_ascii(&name).unwrap());
        assert_eq!(reply.answers[0].ttl, 0);
        assert_eq!(answers(&ask(&t, &name, AAAA).await), ["AAAA 2001:db8::1"]);
        let all = answers(&ask(&t, &name, ANY).await);
        assert_eq!(all, ["A 10.0.0.1", "A 10.0.0.3", "AAAA 2001:db8::1"]);
        assert_eq!(answers(&dns::over_tcp(t.dns(), &question(&name, ANY))), all);
    }
    t.deregister(&["n", "m", "o"]).await;
}

async fn critical_instances_have_no_address(t: T) {
    let name = format!("{}.service.consul.", t.name("s"));
    for (node, address, status) in
        [("n", "10.0.0.1", "passing"), ("m", "10.0.0.2", "warning"), ("o", "10.0.0.3", "critical")]
    {
        register(&t, node, address, &format!("{}{}", service(&t, ""), check(status))).await;
    }
    assert_eq!(answers(&ask(&t, &name, A).await), ["A 10.0.0.1", "A 10.0.0.2"]);
    for (node, address) in [("n", "10.0.0.1"), ("m", "10.0.0.2")] {
        register(&t, node, address, &check("critical")).await;
    }
    assert_eq!(code(&ask(&t, &name, A).await), ResponseCode::NXDomain);
    t.deregister(&["n", "m", "o"]).await;
}

async fn a_port_has_a_weight_and_a_node(t: T) {
    let weights = r#","Weights":{"Passing":5,"Warning":2}"#;
    let fields =
        format!(r#","NodeMeta":{{"zone":"a=`","rfc1035-raw":"b"}}{}"#, service(&t, weights));
    register(&t, "n", "10.0.0.1", &fields).await;
    let target = format!("{}.node.dc1.consul.", t.name("n"));
    let name = format!("{}.service.consul.", t.name("s"));
    let reply = ask(&t, &name, SRV).await;
    assert_eq!(answers(&reply), [format!("SRV 1 5 80 {target}")]);
    assert_eq!(section(&reply.additionals), ["A 10.0.0.1", "TXT b", "TXT zone=a=``"]);
    let owner = Name::from_ascii(&target).unwrap();
    assert!(reply.additionals.iter().all(|record| record.name == owner), "{reply}");
    register(&t, "n", "10.0.0.1", &check("warning")).await;
    assert_eq!(answers(&ask(&t, &name, SRV).await), [format!("SRV 1 2 80 {target}")]);
    t.deregister(&["n"]).await;
}

async fn an_instance_may_have_its_own_address(t: T) {
    register(&t, "n", "10.0.0.1", &service(&t, r#","Address":"10.0.0.9""#)).await;
    register(&t, "m", "10.0.0.1", &service(&t, r#","Address":"2001:db8::9""#)).await;
    let name = format!("{}.service.consul.", t.name("s"));
    let reply = ask(&t, &name, SRV).await;
    let six = format!("20010db8{:024x}", 9);
    let expected = ["0a000009", &six].map(|hex| format!("SRV 1 1 80 {hex}.addr.dc1.consul."));
    assert_eq!(answers(&reply), expected);
    let addresses: Vec<_> =
        section(&reply.additionals).into_iter().filter(|text| !text.starts_with("TXT")).collect();
    assert_eq!(addresses, ["A 10.0.0.9", "AAAA 2001:db8::9"]);
    t.deregister(&["n", "m"]).await;
}

async fn tags_choose_instances(t: T) {
    register(&t, "n", "10.0.0.1", &service(&t, r#","Tags":["Blue","v1.2"]"#)).await;
    register(&t, "m", "10.0.0.2", &service(&t, r#","Tags":["green"]"#)).await;
    let name = t.name("s");
    for (asked, found) in [
        (format!("blue.{name}.service.consul."), "A 10.0.0.1"),
        (format!("v1.2.{name}.service.dc1.consul."), "A 10.0.0.1"),
        (format!("GREEN.{name}.service.consul."), "A 10.0.0.2"),
        (format!("_{name}._green.service.consul."), "A 10.0.0.2"),
    ] {
        assert_eq!(answers(&ask(&t, &asked, A).await), [found], "{asked}");
    }
    let all = ["A 10.0.0.1", "A 10.0.0.2"];
    assert_eq!(answers(&ask(&t, &format!("_{name}._tcp.service.consul."), A).await), all);
    let nothing = ask(&t, "_._tcp.service.consul.", SRV).await;
    assert_eq!(code(&nothing), ResponseCode::ServFail);
    if !t.is_1_8("a query without a name does not exist") {
        let nothing = ask(&t, "_._tcp.query.consul.", SRV).await;
        assert_eq!(code(&nothing), ResponseCode::ServFail);
    }
    let missing = format!("red.{name}.service.consul.");
    assert_eq!(code(&ask(&t, &missing, A).await), ResponseCode::NXDomain);
    if !t.is_1_8("names of ports have the word service") {
        let reply = ask(&t, &format!("_{name}._tcp.consul."), SRV).await;
        assert_eq!(reply.answers.len(), 2, "{reply}");
    }
    t.deregister(&["n", "m"]).await;
}

async fn a_node_has_an_address_and_metadata(t: T) {
    register(&t, "n", "10.0.0.1", r#","NodeMeta":{"zone":"a"}"#).await;
    register(&t, "a.b", "2001:db8::1", "").await;
    let name = format!("{}.node.consul.", t.name("n"));
    let reply = ask(&t, &name, A).await;
    assert_eq!(answers(&reply), ["A 10.0.0.1"]);
    assert_eq!(section(&reply.additionals), ["TXT zone=a"]);
    assert_eq!(answers(&ask(&t, &name, TXT).await), ["TXT zone=a"]);
    assert_eq!(answers(&ask(&t, &name, ANY).await), ["A 10.0.0.1", "TXT zone=a"]);
    let reply = ask(&t, &name, AAAA).await;
    assert_eq!((code(&reply), answers(&reply)), (ResponseCode::NoError, vec![]));
    let dotted = format!("{}.node.dc1.consul.", t.name("a.b"));
    assert_eq!(answers(&ask(&t, &dotted, AAAA).await), ["AAAA 2001:db8::1"]);
    t.deregister(&["n", "a.b"]).await;
}

async fn an_unknown_name_does_not_exist(t: T) {
    register(&t, "n", "10.0.0.1", &service(&t, "")).await;
    let (node, service) = (t.name("n"), t.name("s"));
    for name in [
        format!("{service}.service.dc9.consul."),
        format!("{service}.service.a.b.c.consul."),
        format!("{node}.node.dc9.consul."),
        format!("{service}.unknown.consul."),
        format!("{service}.ingress.consul."),
        "none.service.consul.".to_owned(),
        "none.node.consul.".to_owned(),
        "none.query.consul.".to_owned(),
        "service.consul.".to_owned(),
        "consul.".to_owned(),
    ] {
        let reply = ask(&t, &name, A).await;
        assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NXDomain, 0), "{name}");
        let [authority] = &reply.authorities[..] else { panic!("{name}: {reply}") };
        assert_eq!(
            (authority.record_type(), authority.name.to_ascii()),
            (SOA, "consul.".to_owned())
        );
    }
    t.deregister(&["n"]).await;
}

async fn a_name_may_have_no_data_of_a_type(t: T) {
    register(&t, "n", "10.0.0.1", &service(&t, "")).await;
    let name = format!("{}.service.consul.", t.name("s"));
    for kind in [AAAA, MX] {
        let reply = ask(&t, &name, kind).await;
        assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NoError, 0));
        assert_eq!(reply.authorities.len(), 1, "{reply}");
    }
    let node = format!("{}.node.consul.", t.name("n"));
    let reply = ask(&t, &node, MX).await;
    assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NoError, 0));
    t.deregister(&["n"]).await;
}

async fn the_domain_has_an_authority(t: T) {
    let this = t.value("agent_self", args![]).await;
    let node = text(this.get("Config").unwrap(), "NodeName").to_lowercase();
    let server = format!("NS {node}.node.dc1.consul.");
    let reply = ask(&t, "consul.", SOA).await;
    let soa = answers(&reply);
    let [soa] = &soa[..] else { panic!("{reply}") };
    assert!(soa.starts_with("SOA ns.consul. hostmaster.consul. "), "{soa}");
    assert!(soa.ends_with(" 3600 600 86400 0"), "{soa}");
    // A name with other characters than hosts' is left out.
    let is_host = node.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let servers = if is_host { vec![server] } else { vec![] };
    assert_eq!(section(&reply.authorities), servers);
    let reply = ask(&t, "any.thing.consul.", NS).await;
    assert_eq!(answers(&reply), servers);
    assert_eq!(section(&reply.additionals).len(), servers.len(), "{reply}");
}

async fn an_address_may_be_a_name(t: T) {
    register(&t, "n", "10.0.0.1", "").await;
    let node = format!("{}.node.consul", t.name("n"));
    register(&t, "far", "example.com", "").await;
    register(&t, "m", &node, &service(&t, "")).await;
    let name = format!("{}.service.consul.", t.name("s"));
    let alias = format!("CNAME {node}.");
    assert_eq!(answers(&ask(&t, &name, A).await), ["A 10.0.0.1".to_owned(), alias.clone()]);
    let reply = ask(&t, &name, SRV).await;
    assert_eq!(answers(&reply), [format!("SRV 1 1 80 {node}.")]);
    assert_eq!(section(&reply.additionals), ["A 10.0.0.1"]);
    let reply = ask(&t, &format!("{}.node.consul.", t.name("m")), A).await;
    assert_eq!(answers(&reply), ["A 10.0.0.1".to_owned(), alias]);
    // Other domains are not asked.
    let reply = ask(&t, &format!("{}.node.consul.", t.name("far")), A).await;
    assert_eq!(answers(&reply), ["CNAME example.com."]);
    t.deregister(&["n", "m", "far"]).await;
}

async fn names_that_lead_in_circles_end(t: T) {
    let name = |node: &str| format!("{}.node.consul", t.name(node));
    register(&t, "n", &name("m"), "").await;
    register(&t, "m", &name("n"), "").await;
    let reply = ask(&t, &format!("{}.", name("n")), A).await;
    let (to_m, to_n) = (format!("CNAME {}.", name("m")), format!("CNAME {}.", name("n")));
    let mut expected = vec![to_m.clone(), to_m, to_n.clone()];
    if t.is_1_8("names are followed once more") {
        expected.push(to_n);
    }
    assert_eq!(answers(&reply), expected);
    t.deregister(&["n", "m"]).await;
}

async fn an_address_is_answered_once(t: T) {
    let both = r#","TaggedAddresses":{"lan_ipv4":"10.0.0.1","lan_ipv6":"2001:db8::1"}"#;
    for node in ["n", "m"] {
        register(&t, node, "10.0.0.1", &format!("{both}{}", service(&t, ""))).await;
    }
    for name in [format!("{}.node", t.name("n")), format!("{}.service", t.name("s"))] {
        for (kind, address) in [(A, "A 10.0.0.1"), (AAAA, "AAAA 2001:db8::1")] {
            let reply = ask(&t, &format!("{name}.consul."), kind).await;
            assert_eq!(answers(&reply), [address], "{name}");
        }
    }
    t.deregister(&["n", "m"]).await;
}

async fn an_address_has_a_name(t: T) {
    for (label, kind, found) in [
        ("0a000001", A, "A 10.0.0.1"),
        ("0a000001", ANY, "A 10.0.0.1"),
        ("20010db8000000000000000000000001", AAAA, "AAAA 2001:db8::1"),
    ] {
        for place in ["", ".dc1"] {
            let reply = ask(&t, &format!("{label}.addr{place}.consul."), kind).await;
            assert_eq!(answers(&reply), [found]);
        }
    }
    if !t.is_1_8("a name of an address has it for each type") {
        let reply = ask(&t, "0a000001.addr.consul.", AAAA).await;
        assert_eq!((code(&reply), answers(&reply)), (ResponseCode::NoError, vec![]));
        assert_eq!(section(&reply.additionals), ["A 10.0.0.1"]);
    }
    for wrong in ["0a00001", "0a00000x", "x.0a000001"] {
        let reply = ask(&t, &format!("{wrong}.addr.consul."), A).await;
        assert_eq!(reply.answers.len(), 0, "{reply}");
        if !t.is_1_8("a wrong label of an address exists") {
            assert_eq!(code(&reply), ResponseCode::NXDomain, "{wrong}");
        }
    }
}

async fn addresses_are_found_in_reverse(t: T) {
    register(&t, "n", "198.51.100.7", &service(&t, r#","Address":"198.51.100.8""#)).await;
    register(&t, "m", "2001:db8::7", "").await;
    let node = |node: &str| format!("PTR {}.node.dc1.consul.", t.name(node));
    let six = format!("7.0.0.0{}.8.b.d.0.1.0.0.2.ip6.arpa.", ".0".repeat(20));
    for (address, found) in [
        ("7.100.51.198.in-addr.arpa.", node("n")),
        ("8.100.51.198.in-addr.arpa.", format!("PTR {}.service.dc1.consul.", t.name("s"))),
        (&six, node("m")),
    ] {
        assert_eq!(answers(&ask(&t, address, PTR).await), [found], "{address}");
    }
    let reply = ask(&t, "9.100.51.198.in-addr.arpa.", PTR).await;
    if !t.is_1_8("an unknown address is a failure of the server") {
        assert_eq!((code(&reply), reply.authorities.len()), (ResponseCode::NXDomain, 1));
    }
    t.deregister(&["n", "m"]).await;
}

async fn a_query_is_executed(t: T) {
    register(&t, "n", "10.0.0.1", &service(&t, "")).await;
    let (name, service) = (t.name("q"), t.name("s"));
    let body =
        format!(r#"{{"Name":"{name}","Service":{{"Service":"{service}"}},"DNS":{{"TTL":"7s"}}}}"#);
    let created = t.raw("POST", "/v1/query", &body).await;
    let id = created.body.split('"').nth(3).expect("an id").to_owned();
    for name in [format!("{name}.query"), format!("{id}.query.dc1")] {
        let reply = ask(&t, &format!("{name}.consul."), A).await;
        assert_eq!((answers(&reply), reply.answers[0].ttl), (vec!["A 10.0.0.1".to_owned()], 7));
    }
    let reply = ask(&t, &format!("{name}.query.consul."), SRV).await;
    assert_eq!(answers(&reply), [format!("SRV 1 1 80 {}.node.dc1.consul.", t.name("n"))]);
    t.deregister(&["n"]).await;
    let reply = ask(&t, &format!("{name}.query.consul."), A).await;
    assert_eq!(code(&reply), ResponseCode::NXDomain);
    t.raw("DELETE", &format!("/v1/query/{id}"), "").await;
}

/// Whose template may name the client's network.
async fn only_the_answer_of_a_query_is_for_a_network(t: T) {
    register(&t, "n", "10.0.0.1", &service(&t, "")).await;
    let (name, service) = (t.name("q"), t.name("s"));
    let body = format!(r#"{{"Name":"{name}","Service":{{"Service":"{service}"}}}}"#);
    let created = t.raw("POST", "/v1/query", &body).await;
    let id = created.body.split('"').nth(3).expect("an id").to_owned();
    for (name, scope) in [(format!("{service}.service"), 0), (format!("{name}.query"), 24)] {
        let mut asked = question(&format!("{name}.consul."), A);
        let mut edns = Edns::new();
        let network = ClientSubnet::new("192.0.2.0".parse().unwrap(), 24, 0);
        edns.options_mut().insert(EdnsOption::Subnet(network));
        asked.edns = Some(edns);
        let reply = dns::over_udp(t.dns(), &asked);
        let subnet = reply.edns.as_ref().and_then(|edns| edns.option(EdnsCode::Subnet));
        let Some(EdnsOption::Subnet(subnet)) = subnet else { panic!("{reply}") };
        assert_eq!((subnet.source_prefix(), subnet.scope_prefix()), (24, scope), "{name}");
    }
    t.raw("DELETE", &format!("/v1/query/{id}"), "").await;
    t.deregister(&["n"]).await;
}

async fn the_mesh_has_names(t: T) {
    let service = t.name("s");
    let proxy = format!(
        r#","Service":{{"Service":"{service}-proxy","Kind":"connect-proxy","Port":21,"Proxy":{{"DestinationServiceName":"{service}"}}}}"#
    );
    register(&t, "n", "10.0.0.1", &proxy).await;
    let name = format!("{service}.connect.consul.");
    assert_eq!(answers(&ask(&t, &name, A).await), ["A 10.0.0.1"]);
    let reply = ask(&t, &name, SRV).await;
    assert_eq!(answers(&reply), [format!("SRV 1 1 21 {}.node.dc1.consul.", t.name("n"))]);
    if !t.is_1_8("there are no virtual addresses") {
        let found = t.value("catalog_service", args![format!("{service}-proxy")]).await;
        let tagged = found.items()[0].get("ServiceTaggedAddresses").unwrap();
        let address = text(tagged.get("consul-virtual").unwrap(), "Address");
        let reply = ask(&t, &format!("{service}.virtual.consul."), A).await;
        assert_eq!(answers(&reply), [format!("A {address}")]);
        let reply = ask(&t, &format!("{service}-none.virtual.consul."), A).await;
        assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::NoError, 0));
    }
    t.deregister(&["n"]).await;
}

/// A holder of a virtual address: an instance in the mesh or outside, a proxy for it, an entry with its name.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Holder {
    Native,
    Plain,
    Proxy,
    Entry,
}

async fn hold(t: &T, service: &str, holder: Holder) {
    let (instance, fields) = match holder {
        Holder::Native => (service.to_owned(), r#""Port":1,"Connect":{"Native":true}"#.to_owned()),
        Holder::Plain => (service.to_owned(), r#""Port":1"#.to_owned()),
        Holder::Proxy => (
            format!("{service}-proxy"),
            format!(
                r#""Port":1,"Kind":"connect-proxy","Proxy":{{"DestinationServiceName":"{service}"}}"#
            ),
        ),
        Holder::Entry => {
            let entry = table! {"Kind" = "service-defaults", "Name" = service};
            return drop(t.ok("config_write", args![entry]).await);
        }
    };
    let of =
        format!(r#","Service":{{"Service":"{instance}","ID":"{service}-{holder:?}",{fields}}}"#);
    register(t, "n", "10.0.0.1", &of).await;
}

async fn let_go(t: &T, service: &str, holder: Holder) {
    if holder == Holder::Entry {
        return drop(t.ok("config_delete", args!["service-defaults", service]).await);
    }
    let id = format!("{service}-{holder:?}");
    t.ok("catalog_deregister", args![table! {"Node" = t.name("n"), "ServiceID" = id}]).await;
}

async fn a_virtual_address_ends_with_its_holders(t: T) {
    use Holder::{Entry, Native, Plain, Proxy};
    if t.is_1_8("there are no virtual addresses") {
        return;
    }
    /// Who comes; then who goes, and whether there is an address afterwards.
    type Course = (&'static [Holder], &'static [(Holder, bool)]);
    const COURSES: &[Course] = &[
        (&[Native], &[(Native, false)]),
        (&[Native, Plain], &[(Native, true), (Plain, false)]),
        (&[Plain, Proxy], &[(Plain, false), (Proxy, false)]),
        (&[Plain, Proxy], &[(Proxy, true), (Plain, false)]),
        (&[Proxy], &[(Proxy, true)]),
        (&[Entry], &[(Entry, false)]),
        (&[Plain, Entry], &[(Entry, true), (Plain, false)]),
        (&[Plain, Entry], &[(Plain, true), (Entry, false)]),
        (&[Native, Entry], &[(Native, true), (Entry, false)]),
        (&[Native, Entry], &[(Entry, true), (Native, false)]),
        (&[Proxy, Entry], &[(Entry, false), (Proxy, false)]),
        (&[Proxy, Entry], &[(Proxy, true), (Entry, false)]),
    ];
    for (number, (come, go)) in COURSES.iter().enumerate() {
        let service = t.name(&format!("s{number}"));
        let name = format!("{service}.virtual.consul.");
        for holder in *come {
            hold(&t, &service, *holder).await;
        }
        assert_eq!(ask(&t, &name, A).await.answers.len(), 1, "{come:?}");
        for (holder, stays) in *go {
            let_go(&t, &service, *holder).await;
            let found = ask(&t, &name, A).await.answers.len();
            assert_eq!(found, usize::from(*stays), "{come:?}, then {go:?}, at {holder:?}");
        }
    }
    // An instance that has another name now leaves the address of its first one.
    for name in ["first", "second"] {
        let name = t.name(name);
        let of = format!(
            r#","Service":{{"ID":"{}","Service":"{name}","Port":1,"Connect":{{"Native":true}}}}"#,
            t.name("i")
        );
        register(&t, "n", "10.0.0.1", &of).await;
    }
    for name in ["first", "second"] {
        let name = format!("{}.virtual.consul.", t.name(name));
        assert_eq!(ask(&t, &name, A).await.answers.len(), 1, "{name}");
    }
    t.deregister(&["n"]).await;
}

async fn answers_over_udp_are_short(t: T) {
    let nodes: Vec<_> = (1..=40).map(|number| format!("n{number}")).collect();
    for (node, number) in nodes.iter().zip(1..) {
        register(&t, node, &format!("10.0.1.{number}"), &service(&t, "")).await;
    }
    let name = format!("{}.service.consul.", t.name("s"));
    for kind in [A, SRV] {
        let plain = question(&name, kind);
        let (reply, size) = dns::over_udp_with_size(t.dns(), &plain);
        assert!((1..=3).contains(&reply.answers.len()), "{reply}");
        assert!(size <= 512, "{size}");
        assert_eq!(dns::over_tcp(t.dns(), &plain).answers.len(), 40);
        let with_size = |size: u16| {
            let (mut request, mut edns) = (plain.clone(), Edns::new());
            edns.set_max_payload(size);
            request.edns = Some(edns);
            request
        };
        let reply = dns::over_udp(t.dns(), &with_size(65_000));
        assert_eq!(reply.answers.len(), 40);
        assert_eq!(reply.edns.as_ref().map(Edns::max_payload), Some(65_000));
        let (reply, size) = dns::over_udp_with_size(t.dns(), &with_size(700));
        assert!((4..40).contains(&reply.answers.len()), "{reply}");
        let more =
            if t.is_1_8("an answer can be a few bytes longer than the limit") { 20 } else { 0 };
        assert!(size <= 700 + more, "{size}");
        // Left out records are not told, unless dns_config.enable_truncate says so.
        assert!(!reply.metadata.truncation);
    }
    let nodes: Vec<_> = nodes.iter().map(String::as_str).collect();
    t.deregister(&nodes).await;
}

async fn instances_come_in_random_order(t: T) {
    for number in 1..=3 {
        let (node, address) = (format!("n{number}"), format!("10.0.0.{number}"));
        register(&t, &node, &address, &service(&t, "")).await;
    }
    let name = format!("{}.service.consul.", t.name("s"));
    let mut first = BTreeSet::new();
    // The chance that one of three never is the first is below one in ten millions.
    for _ in 0..45 {
        let reply = ask(&t, &name, A).await;
        first.insert(reply.answers[0].data.to_string());
    }
    assert_eq!(first.len(), 3);
    t.deregister(&["n1", "n2", "n3"]).await;
}

async fn names_keep_their_capitals(t: T) {
    register(&t, "N", "10.0.0.1", &service(&t, "")).await;
    let name = format!("{}.SERVICE.Consul.", t.name("S"));
    let reply = ask(&t, &name, SRV).await;
    assert_eq!(reply.queries[0].name.to_ascii(), name);
    assert_eq!(reply.answers[0].name.to_ascii(), name);
    let domain = if t.is_1_8("names in answers have the domain in small letters") {
        "consul"
    } else {
        "Consul"
    };
    assert_eq!(answers(&reply), [format!("SRV 1 1 80 {}.node.dc1.{domain}.", t.name("N"))]);
    t.deregister(&["N"]).await;
}

/// As Consul takes the escape of text form for a part of the name.
async fn a_name_with_a_space_is_not_found(t: T) {
    let (node, service) = (t.name("n o"), t.name("my s"));
    let service = format!(r#","Service":{{"Service":"{service}"}}"#);
    register(&t, "n o", "10.0.0.1", &service).await;
    register(&t, "plain", "10.0.0.2", "").await;
    for labels in [[&*node, "node", "consul"], [&*t.name("my s"), "service", "consul"]] {
        let name = Name::from_labels(labels.map(str::as_bytes)).unwrap();
        let mut asked = question("consul.", A);
        asked.queries = vec![Query::query(name, A)];
        assert_eq!(code(&dns::over_udp(t.dns(), &asked)), ResponseCode::NXDomain, "{labels:?}");
    }
    let plain = format!("{}.node.consul.", t.name("plain"));
    assert_eq!(answers(&ask(&t, &plain, A).await), ["A 10.0.0.2"]);
    t.deregister(&["n o", "plain"]).await;
}

async fn other_domains_are_refused(t: T) {
    for name in ["example.com.", "a.service.consul.com.", "."] {
        let reply = ask(&t, name, A).await;
        assert_eq!((code(&reply), reply.answers.len()), (ResponseCode::Refused, 0), "{name}");
        assert!(!reply.metadata.authoritative);
    }
}

async fn a_transfer_is_not_possible(t: T) {
    assert_eq!(code(&ask(&t, "consul.", AXFR).await), ResponseCode::NotImp);
    let mut update = question("consul.", SOA);
    update.metadata.op_code = OpCode::Update;
    assert_eq!(code(&dns::over_udp(t.dns(), &update)), ResponseCode::NotImp);
    let mut two = question("consul.", SOA);
    two.add_query(Query::query(Name::root(), A));
    assert_eq!(code(&dns::over_udp(t.dns(), &two)), ResponseCode::FormErr);
}

async fn dns_has_a_token(t: T) {
    if t.is_1_8("DNS has the token of requests without one") {
        return;
    }
    let t = t.with_acls(Deny);
    let management = t.value("acl_token_self", args![]).await;
    let secret = text(&management, "SecretID").to_owned();
    t.ok(
        "catalog_register",
        args![table! {
            "Node" = t.name("n"), "Address" = "10.0.0.1",
            "Service" = table! {"Service" = t.name("s"), "Port" = 80}
        }],
    )
    .await;
    let use_token = async |secret: &str| {
        let token = table! {"Token" = secret};
        t.ok("agent_token", args!["dns", token]).await;
    };
    let names =
        [format!("{}.service.consul.", t.name("s")), format!("{}.node.consul.", t.name("n"))];
    for name in &names {
        assert_eq!(code(&ask(&t, name, A).await), ResponseCode::NXDomain);
    }
    use_token(&secret).await;
    for name in &names {
        assert_eq!(answers(&ask(&t, name, A).await), ["A 10.0.0.1"]);
    }
    // A token that sees nodes alone does not learn the name of a service.
    let placed = table! {
        "Node" = t.name("n"), "Address" = "10.0.0.1",
        "Service" = table! {"Service" = t.name("placed"), "Address" = "198.51.100.77"},
    };
    t.ok("catalog_register", args![placed]).await;
    let address = "77.100.51.198.in-addr.arpa.";
    let name = format!("PTR {}.service.dc1.consul.", t.name("placed"));
    assert_eq!(answers(&ask(&t, address, PTR).await), [name]);
    let nodes = token(&t, "node_prefix \"\" { policy = \"read\" }").await;
    use_token(text(&nodes, "SecretID")).await;
    assert_eq!(code(&ask(&t, address, PTR).await), ResponseCode::NXDomain);
    assert_eq!(answers(&ask(&t, &names[1], A).await), ["A 10.0.0.1"]);
    // A token that sees services alone does not learn a node's.
    let services = token(&t, "service_prefix \"\" { policy = \"read\" }").await;
    use_token(text(&services, "SecretID")).await;
    let reply = ask(&t, "1.0.0.10.in-addr.arpa.", PTR).await;
    assert_eq!(code(&reply), ResponseCode::NXDomain);
    use_token("6a1253d2-1785-24fd-91c2-000000000000").await;
    assert_eq!(code(&ask(&t, &names[0], A).await), ResponseCode::ServFail);
    // Without a token of its own it has the agent's default one.
    use_token("").await;
    let use_default = async |secret: &str| {
        t.ok("agent_token", args!["default", table! {"Token" = secret}]).await;
    };
    use_default(text(&nodes, "SecretID")).await;
    assert_eq!(answers(&ask(&t, &names[1], A).await), ["A 10.0.0.1"]);
    use_default("").await;
    assert_eq!(code(&ask(&t, &names[1], A).await), ResponseCode::NXDomain);
    t.deregister(&["n"]).await;
}

async fn callers_without_permission_learn_what_is_unknown(t: T) {
    if t.is_1_8("DNS without permission is another") {
        return;
    }
    let t = t.with_acls(Deny);
    for (name, expected) in [
        ("none.query.consul.", ResponseCode::NXDomain),
        ("none.service.consul.", ResponseCode::NXDomain),
        ("none.node.consul.", ResponseCode::NXDomain),
        ("web.connect.consul.", ResponseCode::ServFail),
    ] {
        let answer = ask(&t, name, A).await;
        assert_eq!(code(&answer), expected, "{name}");
    }
}
