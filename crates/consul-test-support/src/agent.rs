//! A simulated agent on a socket.

use consul_sim::http::listen::Listener;
use consul_sim::http::serve::serve;
use consul_sim::{Agent, Options};
use std::sync::Arc;
use std::thread;
use tokio::runtime::Builder;

/// Serves a new agent until the process ends; returns its address.
pub fn serve_agent() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            listener.set_nonblocking(true).expect("a socket can be made so");
            let listener = tokio::net::TcpListener::from_std(listener).expect("within a runtime");
            serve(Arc::new(Agent::new(Options::default())), vec![Listener::Tcp(listener)], 200)
                .await
        })
    });
    address
}
