//! The messages of etcd's gRPC that pages need. Values that are zero, false or empty are left out.
//!
//! Source: etcd's `api/etcdserverpb/rpc.proto` and `api/mvccpb/kv.proto`; "Protocol Buffers Encoding".

use super::Range;
use super::message::{Header, Int, KeyValue, RangeResponse};
use bytes::{Buf as _, BufMut as _, Bytes};

/// The value of a field.
enum Field {
    Number(u64),
    Bytes(Bytes),
    /// Of a kind that these messages do not have.
    Other,
}

impl Field {
    fn number(self) -> u64 {
        if let Field::Number(number) = self { number } else { 0 }
    }

    fn bytes(self) -> Bytes {
        if let Field::Bytes(bytes) = self { bytes } else { Bytes::new() }
    }
}

pub fn range_request(range: &Range, limit: u64, revision: u64) -> Vec<u8> {
    let mut message = Vec::with_capacity(32 + range.start.len() + range.end.len());
    for (field, bytes) in [(1, &range.start), (2, &range.end)] {
        // An end that is there but empty is none: all keys from the start on.
        if !bytes.is_empty() {
            put_number(&mut message, (field << 3) | 2);
            put_number(&mut message, bytes.len() as u64);
            message.put_slice(bytes);
        }
    }
    for (field, number) in [(3, limit), (4, revision)] {
        put_number(&mut message, field << 3);
        put_number(&mut message, number);
    }
    message
}

/// `None` if it is not one.
pub fn range_response(message: &Bytes) -> Option<RangeResponse> {
    let (mut header, mut kvs, mut more, mut count) = (None, Vec::new(), false, 0);
    let mut rest = message.clone();
    while let Some(field) = next(&mut rest)? {
        match field {
            (1, Field::Bytes(it)) => header = Some(self::header(it)?),
            (2, Field::Bytes(it)) => kvs.push(key_value(it)?),
            (3, it) => more = it.number() != 0,
            (4, it) => count = it.number(),
            _ => {}
        }
    }
    Some(RangeResponse { header: header?, kvs, more, count: Int(count) })
}

fn header(mut message: Bytes) -> Option<Header> {
    let mut header = Header::default();
    while let Some(field) = next(&mut message)? {
        match field {
            (1, it) => header.cluster_id.0 = it.number(),
            (3, it) => header.revision.0 = it.number(),
            _ => {}
        }
    }
    Some(header)
}

fn key_value(mut message: Bytes) -> Option<KeyValue> {
    let mut kv = KeyValue::default();
    while let Some(field) = next(&mut message)? {
        match field {
            (1, it) => kv.key.0 = it.bytes(),
            (2, it) => kv.create_revision.0 = it.number(),
            (3, it) => kv.mod_revision.0 = it.number(),
            (4, it) => kv.version.0 = it.number(),
            (5, it) => kv.value.0 = it.bytes(),
            (6, it) => kv.lease.0 = it.number(),
            _ => {}
        }
    }
    Some(kv)
}

/// The number and the content of the next field, or that there is none; `None` if it is not a message.
fn next(message: &mut Bytes) -> Option<Option<(u64, Field)>> {
    if message.is_empty() {
        return Some(None);
    }
    let tag = number(message)?;
    let field = match tag & 7 {
        0 => Field::Number(number(message)?),
        2 => {
            let length = usize::try_from(number(message)?).ok()?;
            Field::Bytes((length <= message.len()).then(|| message.split_to(length))?)
        }
        kind => {
            let length = [(1, 8), (5, 4)].into_iter().find(|(it, _)| *it == kind)?.1;
            (length <= message.len()).then(|| message.advance(length))?;
            Field::Other
        }
    };
    Some(Some((tag >> 3, field)))
}

fn number(message: &mut Bytes) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *message.first()?;
        message.advance(1);
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn put_number(message: &mut Vec<u8>, number: u64) {
    let mut rest = number;
    while rest >= 0x80 {
        message.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    message.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_is_decoded_as_etcd_has_encoded_it() {
        // Of etcd 3.4.23: two keys of three; the second has an empty value and a lease.
        let text = b"\x0a\x19\x08\xeb\xc5\xfb\xd4\xd6\xb5\xdb\xbb\xad\x01\x10\xf3\xc9\xb1\x8d\xb7\xa7\xe3\xfc\x60\x18\x06\x20\x02\
            \x12\x0c\x0a\x01a\x10\x02\x18\x04\x20\x02\x2a\x01v\
            \x12\x13\x0a\x01b\x10\x03\x18\x06\x20\x02\x30\xff\xff\xff\xff\xff\xff\xff\xff\x7f\
            \x18\x01\x20\x03";
        let page = range_response(&Bytes::from_static(text)).unwrap();
        assert_eq!(page.header.cluster_id.0, 12_499_579_882_375_668_459);
        assert_eq!((page.header.revision.0, page.more, page.count.0), (6, true, 3));
        let [a, b] = &page.kvs[..] else { panic!("{page:?}") };
        assert_eq!((&a.key.0[..], &a.value.0[..], a.create_revision.0), (&b"a"[..], &b"v"[..], 2));
        assert_eq!((a.mod_revision.0, a.version.0, a.lease.0), (4, 2, 0));
        assert_eq!((b.value.0.len(), b.lease.0), (0, i64::MAX as u64));
    }

    /// Zeros are left out, also all of them.
    #[test]
    fn no_field_but_the_header_is_needed() {
        let key_value: [&[u8]; 6] =
            [b"\x0a\x01a", b"\x10\x02", b"\x18\x04", b"\x20\x02", b"\x2a\x01v", b"\x30\x07"];
        let header: [&[u8]; 4] = [b"\x08\x07", b"\x10\x01", b"\x18\x06", b"\x20\x02"];
        let rest: [&[u8]; 2] = [b"\x18\x01", b"\x20\x03"];
        let without = |fields: &[&[u8]], left_out: usize| {
            let left = fields.iter().enumerate().filter(|(at, _)| left_out >> at & 1 == 0);
            left.flat_map(|(_, field)| field.to_vec()).collect::<Vec<u8>>()
        };
        let field = |number: u8, content: Vec<u8>| {
            [&[(number << 3) | 2, content.len() as u8][..], &content].concat()
        };
        for left_out in 0..1 << 12 {
            let message = [
                field(1, without(&header, left_out)),
                field(2, without(&key_value, left_out >> 4)),
                without(&rest, left_out >> 10),
            ];
            let page = range_response(&message.concat().into()).unwrap();
            assert_eq!(page.kvs.len(), 1, "{left_out}");
            assert_eq!(page.kvs[0].key.0.is_empty(), left_out >> 4 & 1 == 1, "{left_out}");
        }
        assert!(range_response(&Bytes::from_static(b"\x0a\x00")).unwrap().kvs.is_empty());
        assert!(range_response(&Bytes::from_static(b"\x20\x03")).is_none());
    }

    #[test]
    fn a_request_for_one_key_has_no_end() {
        let key = Bytes::from_static(b"a");
        assert_eq!(range_request(&Range::one(&key), 0, 300), b"\x0a\x01a\x18\x00\x20\xac\x02");
        let all = range_request(&Range::prefix(b"a"), 5, 0);
        assert_eq!(all, b"\x0a\x01a\x12\x01b\x18\x05\x20\x00");
    }

    proptest! {
        #[test]
        fn what_is_not_a_page_is_not_decoded(text in prop::collection::vec(any::<u8>(), 0..40)) {
            // Without a panic; and never without a header.
            let page = range_response(&Bytes::from(text.clone()));
            prop_assert!(page.is_none() || text.contains(&0x0a));
        }

        #[test]
        fn each_number_comes_back(wanted in any::<u64>()) {
            let mut text = Vec::new();
            put_number(&mut text, wanted);
            prop_assert_eq!(number(&mut text.into()), Some(wanted));
        }
    }
}
