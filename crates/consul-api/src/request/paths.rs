//! Arguments in paths: Consul decodes `%2F` before it routes, so that a `/` in one can lead to another endpoint.

use super::tests::good;
use super::{Args, Defaults, Request};
use crate::endpoints;
use crate::error::{Error, Kind};
use crate::table::{Endpoint, Location, Shape};
use crate::value::Value;
use percent_encoding::percent_decode_str;
use std::collections::BTreeSet;

/// The parameters in the path of a row that are not keys or whole paths.
fn parameters(row: &'static Endpoint) -> impl Iterator<Item = &'static str> {
    let of_path = row.positional.iter().filter(|it| it.location == Location::Path);
    let named = |shape: &Shape| {
        !matches!(shape, Shape::Key | Shape::KeyPrefix | Shape::EncodedPath | Shape::OneOf(_))
    };
    of_path.filter(move |it| named(&it.kind)).map(|it| it.name)
}

fn request(row: &'static Endpoint, parameter: &str, value: &str) -> Result<Request, Error> {
    let args = row.positional.iter().filter(|it| it.name == parameter || !it.optional);
    let args = args.map(|it| if it.name == parameter { value.into() } else { good(&it.kind) });
    row.request(&args.fold(Args::new(), |all, it: Value| all.arg(it)), &Defaults::default())
}

/// The templates that Consul can mean by a path in plain text: of those with the longest beginning and end that fit.
///
/// Source: `ServeMux` of Go, and the handlers in Consul's folder agent, which cut these ends off.
fn routed(plain: &str) -> BTreeSet<&'static str> {
    let weight = |template: &'static str| {
        let Some((begins, rest)) = template.split_once('{') else {
            return (template == plain).then_some((usize::MAX, template));
        };
        let ends = rest.rsplit_once('}').map_or("", |(_, ends)| ends);
        let inner = plain.strip_prefix(begins)?;
        inner.ends_with(ends).then_some((begins.len() + ends.len(), template))
    };
    let fitting: Vec<_> = endpoints().filter_map(|row| weight(row.path)).collect();
    let most = fitting.iter().map(|(weight, _)| *weight).max();
    fitting.into_iter().filter(|it| Some(it.0) == most).map(|(_, template)| template).collect()
}

/// The rest of the templates of other rows where a parameter of this row is, with a text for their parameters.
fn tails(row: &Endpoint, parameter: &str) -> BTreeSet<String> {
    let (begins, _) = row.path.split_once(&format!("{{{parameter}}}")).expect("in the path");
    let begins = begins.split('{').next().unwrap_or_default();
    let mut tails = BTreeSet::from(["x/y".to_owned(), "x/".to_owned(), "/x".to_owned()]);
    for other in endpoints().filter(|other| other.path != row.path) {
        let tail = other.path.strip_prefix(begins).unwrap_or_default();
        let plain: Vec<_> =
            tail.split('/').map(|it| if it.starts_with('{') { "x" } else { it }).collect();
        tails.insert(plain.join("/"));
        let last = other.path.rsplit('/').next().unwrap_or_default();
        tails.extend((!last.starts_with('{')).then(|| format!("x/{last}")));
    }
    tails.remove("");
    tails.remove("x");
    tails
}

#[test]
fn no_argument_leads_to_the_path_of_another_row() {
    let (mut wrong, mut refused, mut sent) = (Vec::new(), 0, 0);
    for row in endpoints() {
        for parameter in parameters(row) {
            for value in tails(row, parameter) {
                match request(row, parameter, &value) {
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::Argument, "{error}");
                        let begins = format!("{}: {parameter} is {value:?}: ", row.name);
                        assert!(error.message().starts_with(&begins), "{error}");
                        refused += 1;
                    }
                    Ok(request) => {
                        let path = percent_decode_str(request.http.uri().path());
                        let path = path.decode_utf8().expect("a text").into_owned();
                        sent += 1;
                        if !routed(&path).contains(row.path) {
                            wrong.push(format!("{} {parameter} {value:?}", row.name));
                        }
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {sent} arguments:\n{}", wrong.len(), wrong.join("\n"));
    assert!(refused > 100 && sent > 1000, "{refused} refused, {sent} sent");
}

/// Played on Consul 1.8.7 and 1.21.0: the last name of a path can have a `/`; an id has none, and what is before another
/// parameter would end there.
#[test]
fn a_slash_is_taken_where_consul_finds_such_a_name() {
    const NAMES: &[&str] =
        &["address", "check_id", "gateway", "method", "name", "node", "service", "service_id"];
    for row in endpoints() {
        for parameter in parameters(row) {
            let by_name = ["query_execute", "query_explain"].contains(&row.name);
            let takes = NAMES.contains(&parameter) || by_name;
            let outcome = request(row, parameter, "x/y");
            assert_eq!(outcome.is_ok(), takes, "{} {parameter}: {outcome:?}", row.name);
            if let Err(error) = outcome {
                assert!(error.message().ends_with("it must not have a `/`"), "{error}");
            }
        }
    }
}
