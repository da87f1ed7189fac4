//! Records, and the names and addresses in them.

use hickory_proto::rr::{Name, RData, RecordType};
use std::net::IpAddr;

/// No message can hold this name.
pub(super) struct Unnameable;

/// The labels of a name, in lower case, and with the escapes of text form, which Consul takes for parts of a name.
pub(super) fn labels(name: &Name) -> Vec<String> {
    const SPECIAL: &[u8] = b". '@;()\"\\";
    let escaped = |byte: &u8| match byte {
        byte if SPECIAL.contains(byte) => format!("\\{}", *byte as char),
        b' '..=b'~' => (byte.to_ascii_lowercase() as char).to_string(),
        byte => format!("\\{byte:03}"),
    };
    name.iter().map(|label| label.iter().map(escaped).collect()).collect()
}

/// A name from text with dots.
pub(super) fn name(text: &str) -> Result<Name, Unnameable> {
    let labels = text.strip_suffix('.').unwrap_or(text).split('.').map(str::as_bytes);
    Name::from_labels(labels).map_err(|_| Unnameable)
}

/// A name within a domain.
pub(super) fn name_in(text: &str, domain: &Name) -> Result<Name, Unnameable> {
    name(text)?.append_name(domain).map_err(|_| Unnameable)
}

/// An address as it is; none for a name.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().map(|address: IpAddr| address.to_canonical())
}

/// The address as a record of the type that is asked for, if that type shows such addresses.
pub(super) fn of_address(asked: RecordType, address: IpAddr) -> Option<RData> {
    let own = match address {
        IpAddr::V4(_) => RecordType::A,
        IpAddr::V6(_) => RecordType::AAAA,
    };
    let any = matches!(asked, RecordType::SRV | RecordType::ANY | RecordType::NS | RecordType::TXT);
    (asked == own || any).then(|| address.into())
}

/// An address as a label.
pub(super) fn hex(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08x}", u32::from(address)),
        IpAddr::V6(address) => format!("{:032x}", u128::from(address)),
    }
}

/// The address in a label.
pub(super) fn from_hex(label: &str) -> Option<IpAddr> {
    let is_hex = label.bytes().all(|byte| byte.is_ascii_hexdigit());
    match label.len() {
        8 if is_hex => u32::from_str_radix(label, 16).ok().map(|bits| IpAddr::V4(bits.into())),
        32 if is_hex => u128::from_str_radix(label, 16).ok().map(|bits| IpAddr::V6(bits.into())),
        _ => None,
    }
}

/// The address in the labels of a reverse name, in lower case.
pub(super) fn reversed(labels: &[String]) -> Option<IpAddr> {
    let [parts @ .., family, _arpa] = labels else { return None };
    let parts = parts.iter().rev().map(String::as_str);
    match (family.as_str(), parts.len()) {
        ("in-addr", 4) => address(&parts.collect::<Vec<_>>().join(".")),
        ("ip6", 32) if parts.clone().all(|digit| digit.len() == 1) => {
            from_hex(&parts.collect::<String>())
        }
        _ => None,
    }
}

/// A pair of a node's metadata as text, as RFC 1464 says.
pub(super) fn attribute(key: &str, value: &str) -> String {
    if key.to_lowercase().starts_with("rfc1035-") {
        return value.to_owned();
    }
    let key = key.replace('`', "``").replace('=', "`=");
    let inner = key.trim_matches(' ');
    let leading = key.len() - key.trim_start_matches(' ').len();
    let trailing = key.len() - leading - inner.len();
    let spaces = |count| "` ".repeat(count);
    format!("{}{inner}{}={}", spaces(leading), spaces(trailing), value.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_quoted() {
        let pairs = [
            ("a", "b", "a=b"),
            (" a=b` ", "`", "` a`=b``` =``"),
            ("rfc1035-a", "b=c", "b=c"),
            ("RFC1035-a", "b", "b"),
        ];
        for (key, value, text) in pairs {
            assert_eq!(attribute(key, value), text, "{key}");
        }
    }

    #[test]
    fn addresses_have_labels() {
        for (text, label) in
            [("10.0.0.1", "0a000001"), ("2001:db8::1", &*format!("20010db8{:024x}", 1))]
        {
            let address = address(text).expect("an address");
            assert_eq!((&*hex(address), from_hex(label)), (label, Some(address)));
        }
        for label in ["", "0a00001", "0a0000001", "+a000001", "0a00000g"] {
            assert_eq!(from_hex(label), None, "{label}");
        }
    }

    #[test]
    fn reverse_names_have_addresses() {
        let of = |text: &str| reversed(&text.split('.').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(of("4.3.2.1.in-addr.arpa"), address("1.2.3.4"));
        let six = format!("1.0.0.0{}.8.b.d.0.1.0.0.2.ip6.arpa", ".0".repeat(20));
        assert_eq!(of(&six), address("2001:db8::1"));
        for text in ["arpa", "3.2.1.in-addr.arpa", "4.3.2.256.in-addr.arpa", "4.3.2.1.ip6.arpa"] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
