//! A client of DNS.

use crate::PATIENCE;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};

/// The records of a section, each as its type and its data, in order.
pub fn section(records: &[Record]) -> Vec<String> {
    let mut texts: Vec<_> =
        records.iter().map(|record| format!("{} {}", record.record_type(), record.data)).collect();
    texts.sort();
    texts
}

/// The answers of a reply, in order.
pub fn answers(reply: &Message) -> Vec<String> {
    section(&reply.answers)
}

/// How a question was answered.
pub fn code(reply: &Message) -> ResponseCode {
    reply.metadata.response_code
}

/// A question as a resolver asks it.
pub fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    message
}

/// The answer over UDP.
pub fn over_udp(server: &str, request: &Message) -> Message {
    over_udp_with_size(server, request).0
}

/// The answer over UDP, and its size in bytes.
pub fn over_udp_with_size(server: &str, request: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.send_to(&request.to_vec().expect("bytes"), server).expect("it can be sent");
    let mut bytes = vec![0; 65536];
    let size = socket.recv(&mut bytes).expect("an answer");
    let reply = Message::from_vec(&bytes[..size]).expect("a message");
    assert_eq!(reply.metadata.id, request.metadata.id);
    (reply, size)
}

/// The answer over TCP.
pub fn over_tcp(server: &str, request: &Message) -> Message {
    let mut stream = TcpStream::connect(server).expect("it takes connections");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = request.to_vec().expect("bytes");
    let size = u16::try_from(request.len()).expect("a short message");
    stream.write_all(&[&size.to_be_bytes()[..], &request].concat()).expect("it can be sent");
    let mut size = [0; 2];
    stream.read_exact(&mut size).expect("an answer");
    let mut bytes = vec![0; u16::from_be_bytes(size).into()];
    stream.read_exact(&mut bytes).expect("a whole answer");
    Message::from_vec(&bytes).expect("a message")
}
