//! DNS of consul-sim: its configuration, as Consul 1.21 reads it, and its ports.

use crate::served::{Outcome, Served};
use crate::support::authority::Folder;
use crate::support::consul::{self, RealConsul};
use crate::support::dns::{answers, code, over_tcp, over_udp, question, section};
use crate::support::trials::Trials;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType::{self, A, NS, PTR, SOA, SRV};
use libtest_mimic::Failed;
use serde_json::Value;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    let missing = consul::is_missing(consul::SIM, "the DNS of consul-sim");
    let name = "it_has_the_port_that_it_is_given";
    trials.add_unless(missing, name, it_has_the_port_that_it_is_given);
    trials.add_unless(missing, "a_taken_port_is_an_error", a_taken_port_is_an_error);
    let missing = missing || consul::is_missing("1.21", "the DNS of Consul 1.21");
    trials.add_unless(missing, "a_file_means_the_same [1.21]", a_file_means_the_same);
    trials.add_unless(missing, "a_file_is_read_again [1.21]", a_file_is_read_again);
    trials
}

fn check(what: &str, holds: bool, said: impl std::fmt::Debug) -> Outcome {
    if holds { Ok(()) } else { Err(format!("{what}: {said:?}").into()) }
}

fn it_has_the_port_that_it_is_given() -> Outcome {
    let folder = Folder::new();
    let file = folder.file("ready", "");
    let ready = format!("-sim-ready-file={file}");
    let places = |flags: &[&str]| -> Result<(Served, Vec<Value>), Failed> {
        let served = Served::start_with(&[&[ready.as_str()][..], flags].concat())?;
        let said: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
        Ok((served, said["dns"].as_array().ok_or("no list")?.clone()))
    };
    // Several agents run at once where HTTP has any free port.
    for flags in [&[][..], &["-dns-port=-1"]] {
        let (_served, places) = places(flags)?;
        check("no port", places.is_empty(), places)?;
    }
    let (_served, places) = places(&["-dns-port=0"])?;
    let [Value::String(place)] = &places[..] else { return Err(format!("{places:?}").into()) };
    let request = question("0a000001.addr.consul.", A);
    for reply in [over_udp(place, &request), over_tcp(place, &request)] {
        check("the answer", answers(&reply) == ["A 10.0.0.1"], reply)?;
    }
    // A connection has any number of requests.
    drop(TcpStream::connect(place)?);
    check("afterwards", answers(&over_tcp(place, &request)) == ["A 10.0.0.1"], place)
}

fn a_taken_port_is_an_error() -> Outcome {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let output = Command::new("timeout")
        .arg("20")
        .arg(consul::binary(consul::SIM)?)
        .args(["agent", "-dev", "-http-port=0", &format!("-dns-port={port}")])
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let wanted = format!(
        "==> 1 error occurred:\n\t* listen tcp 127.0.0.1:{port}: bind: address already in use\n"
    );
    check("its words", said.trim_end() == wanted.trim_end(), said)?;
    check("its status", output.status.code() == Some(1), output.status)
}

const CONFIG: &str = r#"
    domain = "Example."
    alt_domain = "other.test"
    dns_config {
        node_ttl = "11s"
        service_ttl { "w*" = "5s", web = "7s", "*" = "3s" }
        only_passing = true
        udp_answer_limit = 2
        a_record_limit = 4
        enable_truncate = true
        enable_additional_node_meta_txt = false
        soa { min_ttl = 9, refresh = 1, retry = 2, expire = 3 }
    }
"#;

/// The content of an answer, without its time and without its random parts.
fn shown(reply: &Message) -> String {
    let no_time = |text: String| match text.strip_prefix("SOA ").map(|text| text.split(' ')) {
        None => text,
        Some(words) => words
            .enumerate()
            .filter(|(at, _)| *at != 2)
            .map(|(_, word)| word)
            .collect::<Vec<_>>()
            .join(" "),
    };
    let all = |records: &[hickory_proto::rr::Record]| -> Vec<String> {
        let mut texts: Vec<_> = records
            .iter()
            .map(|record| {
                let text = no_time(section(std::slice::from_ref(record)).concat());
                format!("{} {} {text}", record.name, record.ttl)
            })
            .collect();
        texts.sort();
        texts
    };
    let [answers, authorities, additionals] =
        [&reply.answers, &reply.authorities, &reply.additionals].map(|records| all(records));
    let code = code(reply);
    let cut = reply.metadata.truncation;
    format!("{code:?} {cut} {answers:?} {authorities:?} {additionals:?}")
}

fn a_file_means_the_same() -> Outcome {
    let folder = Folder::new();
    let file = folder.file("agent.hcl", CONFIG);
    let both = [consul::SIM, "1.21"];
    let servers: Vec<_> = both
        .iter()
        .map(|version| RealConsul::start_with_config(version, &file))
        .collect::<Result<_, _>>()?;
    for server in &servers {
        let register = |body: String| -> Outcome {
            let url = format!("http://{}/v1/catalog/register", server.address);
            let output =
                Command::new("curl").args(["-sS", "-X", "PUT", "-d", &body, &url]).output()?;
            check(&body, output.stdout == b"true", output)
        };
        for (service, count) in [("web", 2), ("wide", 1), ("other", 1), ("many", 9)] {
            for number in 0..count {
                let (node, address) = (format!("{service}{number}"), format!("10.0.0.{number}"));
                register(format!(
                    r#"{{"Node":"{node}","Address":"{address}","NodeMeta":{{"a":"b"}},"Service":{{"Service":"{service}","Port":1}}}}"#
                ))?;
            }
        }
        register(
            r#"{"Node":"web1","Address":"10.0.0.1","Check":{"Name":"c","Status":"warning"}}"#
                .to_owned(),
        )?;
    }
    let ask = |name: &str, kind: RecordType| {
        let request = question(name, kind);
        servers.iter().map(|server| over_udp(&server.dns, &request)).collect::<Vec<_>>()
    };
    for (name, kind) in [
        ("web.service.example.", A),
        ("web.service.example.", SRV),
        ("WEB.service.OTHER.test.", SRV),
        ("wide.service.example.", A),
        ("other.service.other.test.", A),
        ("web.service.consul.", A),
        ("web0.node.example.", A),
        ("web0.node.other.test.", A),
        ("none.other.test.", A),
        ("none.example.", A),
        ("example.", SOA),
        ("a.other.test.", SOA),
        ("other.test.", SOA),
        ("0.0.0.10.in-addr.arpa.", NS),
        ("9.9.0.10.in-addr.arpa.", PTR),
        ("0a000001.addr.example.", A),
    ] {
        let replies = ask(name, kind);
        let [ours, theirs] = [0, 1].map(|place| {
            let node = "NS ";
            // The servers have names of their own.
            shown(&replies[place])
                .split('"')
                .filter(|text| !text.contains(node) && !text.contains("127.0.0.1"))
                .collect::<String>()
        });
        check(&format!("{name} {kind}"), ours == theirs, [ours, theirs])?;
    }
    for reply in ask("many.service.example.", A) {
        let is_cut = reply.metadata.truncation && reply.answers.len() == 2;
        check("it is cut", is_cut, reply)?;
    }
    let request = question("many.service.example.", A);
    for server in &servers {
        let reply = over_tcp(&server.dns, &request);
        check("it has its limit", reply.answers.len() == 4, reply)?;
    }
    Ok(())
}

fn a_file_is_read_again() -> Outcome {
    let folder = Folder::new();
    let config = |ttl: &str, domain: &str| {
        format!(r#"domain = "{domain}" dns_config {{ node_ttl = "{ttl}" }}"#)
    };
    for version in [consul::SIM, "1.21"] {
        let file = folder.file("agent.hcl", config("3s", "first"));
        let server = RealConsul::start_with_config(version, &file)?;
        let ttl = |domain: &str| {
            let name = format!("0a000001.addr.{domain}.");
            over_udp(&server.dns, &question(&name, A)).answers.first().map(|record| record.ttl)
        };
        check("at the start", ttl("first") == Some(3), version)?;
        folder.file("agent.hcl", config("4s", "second"));
        let url = format!("http://{}/v1/agent/reload", server.address);
        let output = Command::new("curl").args(["-sS", "-X", "PUT", &url]).output()?;
        check("the reload", output.status.success() && output.stdout.is_empty(), output)?;
        // The domain stays.
        check("afterwards", ttl("first") == Some(4) && ttl("second").is_none(), version)?;
    }
    Ok(())
}
