//! Requests that end before the answer to their calls.

use super::{Nginx, Outcome, check, get, wait_until};
use libtest_mimic::Failed;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::Path;

/// One client holds a lock, of another one requests wait for it. Both locks outlive the requests.
const BLOCKS: &str = r#"
        location = /hold {
            content_by_lua_block {
                local openresty = require("consul_ffi.openresty")
                holder = holder or openresty.new():lock("l")
                ngx.say(tostring((holder:acquire({ wait_s = 15 }))))
            }
        }
        location = /release { content_by_lua_block { ngx.say(tostring((holder:release()))) } }
        location = /wait {
            content_by_lua_block {
                waiter = waiter or require("consul").client:lock("l")
                ngx.say(tostring((waiter:acquire())))
            }
        }
        location = /exit {
            content_by_lua_block {
                ngx.thread.spawn(function() waiter:acquire() end)
                ngx.sleep(0.3)
                ngx.say(tostring(waiter.object))
                ngx.exit(200)
            }
        }
        location = /drop { content_by_lua_block { ngx.say(tostring((waiter:release()))) } }
        location = /keep {
            content_by_lua_block {
                local lock = require("consul").client:lock("k")
                ngx.on_abort(function()
                    lock:release()
                    ngx.exit(499)
                end)
                kept = lock:acquire()
                ngx.sleep(300)
            }
        }
        location = /kept { content_by_lua_block { ngx.say(tostring(kept)) } }
        location = /another {
            content_by_lua_block {
                another = another or require("consul_ffi.openresty").new():lock("k")
                ngx.say(tostring((another:acquire({ wait_s = 15 }))))
            }
        }
        location = /state { content_by_lua_block { ngx.say(tostring(waiter and waiter.object)) } }

        location = /worker {"#;

fn body(nginx: &Nginx, path: &str) -> Result<String, Failed> {
    Ok(get(nginx.address, path)?.body.trim().to_owned())
}

fn becomes(nginx: &Nginx, state: &str) -> Outcome {
    wait_until(|| Ok(body(nginx, "/state")?.contains(state)))
}

fn says(nginx: &Nginx, path: &str, wanted: &str) -> Outcome {
    let said = body(nginx, path)?;
    check(said.contains(wanted), &format!("{path}: {said}"))
}

fn start(unpacked: &Path) -> Result<Nginx, Failed> {
    Nginx::start_with(unpacked, 1, |text| {
        text.replacen("        location = /worker {", BLOCKS, 1).replacen(
            "http {\n",
            "http {\nlua_check_client_abort on;\n",
            1,
        )
    })
}

/// As docs/openresty.md shows it.
pub fn releases_what_it_holds(unpacked: &Path) -> Outcome {
    let nginx = start(unpacked)?;
    let mut stream = TcpStream::connect(nginx.address)?;
    write!(stream, "GET /keep HTTP/1.0\r\n\r\n")?;
    wait_until(|| Ok(body(&nginx, "/kept")? == "true"))?;
    drop(stream);
    says(&nginx, "/another", "true")
}

pub fn waits_for_a_lock(unpacked: &Path) -> Outcome {
    let nginx = start(unpacked)?;
    says(&nginx, "/hold", "true")?;
    for _ in 0..3 {
        let mut stream = TcpStream::connect(nginx.address)?;
        write!(stream, "GET /wait HTTP/1.0\r\n\r\n")?;
        becomes(&nginx, "waiting")?;
        drop(stream);
        becomes(&nginx, "not held")?;
    }
    says(&nginx, "/exit", "waiting")?;
    becomes(&nginx, "not held")?;
    // It is free for others, and the next request that waits has what it asks for.
    for _ in 0..2 {
        says(&nginx, "/release", "true")?;
        says(&nginx, "/state", "not held")?;
        says(&nginx, "/hold", "true")?;
    }
    says(&nginx, "/release", "true")?;
    says(&nginx, "/wait", "true")?;
    says(&nginx, "/state", "held")?;
    says(&nginx, "/drop", "true")
}
