//! Any JSON answer is the Lua value that it stands for, on each engine; invalid JSON is an error
//! and leaves nothing behind.

#![allow(clippy::unwrap_used)] // a test that panics has failed

use crate::support::trials::Trials;
use fastrand::Rng;
use libtest_mimic::Failed;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

const ANSWERS: usize = 500;

pub fn trials() -> Trials {
    let mut trials = Trials::of(module_path!());
    for (interpreter, flavour) in [("luajit", "luajit"), ("lua5.1", "5.1"), ("lua5.4", "5.4")] {
        let name = format!("any_json_is_the_lua_value_that_it_stands_for [{interpreter}]");
        trials.add(name, || any_json_is_the_lua_value_that_it_stands_for(interpreter, flavour));
    }
    trials
}

fn any_json_is_the_lua_value_that_it_stands_for(
    interpreter: &str,
    flavour: &str,
) -> Result<(), Failed> {
    let seed = fastrand::u64(..);
    let url = serve(seed, flavour == "5.4");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let modules = folder.join("target/lua").join(flavour);
    assert!(modules.exists(), "make build-{flavour} makes {}", modules.display());
    let output = Command::new(interpreter)
        .arg(folder.join("tests/programs/answers.lua"))
        .args([&url, &ANSWERS.to_string()])
        .env("LUA_CPATH", modules.join("?.so"))
        .env_remove("LUA_CPATH_5_4")
        .env_remove("CONSUL_HTTP_ADDR")
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("seed {seed}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// A server that answers each request with a random document, and has the last one as Lua code
/// at `/v1/expected`. It ends with the process.
fn serve(seed: u64, has_integers: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let mut rng = Rng::with_seed(seed);
        let mut expected = String::new();
        for stream in listener.incoming().flatten() {
            answer(stream, &mut rng, &mut expected, has_integers);
        }
    });
    url
}

fn answer(mut stream: TcpStream, rng: &mut Rng, expected: &mut String, has_integers: bool) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    while let Some(Ok(line)) = lines.next() {
        let body = if line.starts_with("GET /v1/expected ") {
            expected.clone()
        } else if line.starts_with("GET ") {
            let (any, code) = document(rng, has_integers);
            *expected = format!("return {code}");
            // Anything else in an agent's answer about itself may be any JSON.
            format!(r#"{{"Config":{{"NodeName":"n"}},"Member":{{"Name":"n"}},"Any":{any}}}"#)
        } else {
            continue;
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all((head + &body).as_bytes()).is_err() {
            return;
        }
    }
}

/// A body, and the Lua code of the expected value.
fn document(rng: &mut Rng, has_integers: bool) -> (String, String) {
    let refused = |body: String| (body, "'decode'".to_owned());
    match rng.u8(..20) {
        // Nested lists in an object, up to the limit, and one level deeper.
        0 => {
            let depth = 126;
            let code = "{".repeat(depth - 1) + "EMPTY_LIST" + &"}".repeat(depth - 1);
            ("[".repeat(depth) + &"]".repeat(depth), code)
        }
        1 => refused("[".repeat(127) + &"]".repeat(127)),
        2 => {
            let whole = json!([value(rng, 0)]).to_string();
            let mut cut = rng.usize(..whole.len());
            while !whole.is_char_boundary(cut) {
                cut -= 1;
            }
            refused(whole[..cut].to_owned())
        }
        // The last of two members with one name counts, even when it is null.
        3 => {
            let (first, last) = (value(rng, 2), value(rng, 2));
            (format!(r#"{{"a":{first},"b":1,"a":{last}}}"#), {
                code(&json!({"a": last, "b": 1}), has_integers)
            })
        }
        _ => {
            let value = value(rng, 0);
            let body = if rng.bool() { value.to_string() } else { format!("{value:#}") };
            (body, code(&value, has_integers))
        }
    }
}

fn value(rng: &mut Rng, depth: usize) -> Value {
    let tables = if depth < 5 { 4 } else { 0 };
    match rng.u8(..8 + tables) {
        0 => Value::Null,
        1 => rng.bool().into(),
        2 => rng.i64(..).into(),
        3 => rng.u64(..).into(),
        4 => (1_u64 << 53).wrapping_add(rng.u64(..3)).wrapping_sub(1).into(),
        5 => rng.i64(-1000..1000).into(),
        // Quarters, which floats represent exactly.
        6 => (f64::from(rng.i32(..)) / 4.0).into(),
        7 => text(rng).into(),
        8 | 9 => {
            let count = rng.usize(..6);
            (0..count).map(|_| value(rng, depth + 1)).collect::<Vec<_>>().into()
        }
        _ => {
            let count = rng.usize(..6);
            let members = (0..count).map(|_| (text(rng), value(rng, depth + 1)));
            members.collect::<Map<_, _>>().into()
        }
    }
}

fn text(rng: &mut Rng) -> String {
    let length = rng.usize(..12);
    (0..length).map(|_| if rng.bool() { rng.char(..) } else { rng.alphanumeric() }).collect()
}

/// The value as Lua code.
fn code(value: &Value, has_integers: bool) -> String {
    match value {
        Value::Null => "nil".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) if number.is_f64() => {
            let number = number.as_f64().unwrap();
            // A divisor makes it a float where integers are another type.
            format!("({}/4)", number * 4.0)
        }
        Value::Number(number) => {
            let exact = match number.as_i64() {
                Some(i64::MIN) => false,
                Some(number) => has_integers || number.unsigned_abs() <= 1 << 53,
                None => false,
            };
            if exact { number.to_string() } else { format!("'{number}'") }
        }
        Value::String(text) => {
            let mut code = "\"".to_owned();
            text.bytes().for_each(|byte| write!(code, "\\{byte:03}").unwrap());
            code + "\""
        }
        Value::Array(items) if items.is_empty() => "EMPTY_LIST".to_owned(),
        Value::Array(items) => {
            let mut table = "{".to_owned();
            for (place, item) in items.iter().enumerate() {
                write!(table, "[{}]={},", place + 1, code(item, has_integers)).unwrap();
            }
            table + "}"
        }
        Value::Object(members) => {
            let mut table = "{".to_owned();
            for (name, member) in members {
                let name = code(&Value::from(name.as_str()), has_integers);
                write!(table, "[{name}]={},", code(member, has_integers)).unwrap();
            }
            table + "}"
        }
    }
}
