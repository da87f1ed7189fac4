//! Pages are read by gRPC where etcd's address answers it, and through the gateway elsewhere.

use super::program::Servers;
use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// With what a connection of HTTP/2 begins.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

pub fn run(servers: &mut Servers) {
    for has_http2 in [true, false] {
        let (url, connections) = in_front(&servers.etcd.url, has_http2);
        let direct = std::mem::replace(&mut servers.etcd.url, url);
        servers
            .run(&["verify"])
            .ends(0, &["compared 2000 keys", "0 missing, 0 extra, 0 different"]);
        servers.etcd.url = direct;
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{has_http2}");
    }
}

/// The URL of a server in front of etcd, and how many connections of HTTP/2 it has had. Without HTTP/2 it cuts them.
fn in_front(url: &str, has_http2: bool) -> (String, Arc<AtomicUsize>) {
    let (server, count) = (url.strip_prefix("http://").unwrap().to_owned(), Arc::default());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let counted: Arc<AtomicUsize> = Arc::clone(&count);
    thread::spawn(move || {
        for client in listener.incoming() {
            let (client, server) = (client.unwrap(), TcpStream::connect(&server).unwrap());
            let counted = Arc::clone(&counted);
            thread::spawn(move || {
                let mut begin = [0; PREFACE.len()];
                while client.peek(&mut begin).is_ok_and(|count| count > 0 && count < begin.len()) {}
                let is_http2 = begin == PREFACE;
                counted.fetch_add(is_http2.into(), Ordering::Relaxed);
                if !is_http2 || has_http2 {
                    thread::scope(|scope| {
                        scope.spawn(|| pass(&client, &server));
                        pass(&server, &client);
                    });
                }
            });
        }
    });
    (format!("http://{address}"), count)
}

fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let _ = copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}
