//! A key in messages and reports.

/// The bytes of a key that they have.
const LONGEST_SHOWN: usize = 1000;

/// A key in messages: what is not UTF-8 or acts on terminals is escaped, and of a long one this is the beginning.
pub fn shown(key: &[u8]) -> String {
    let text = |key: &[u8]| match std::str::from_utf8(key) {
        Ok(key) => key.escape_debug().to_string(),
        Err(_) => key.escape_ascii().to_string(),
    };
    if key.len() <= LONGEST_SHOWN {
        return text(key);
    }
    let begins = &key[..LONGEST_SHOWN];
    // Not within a character.
    let end = match std::str::from_utf8(begins) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => begins.len(),
    };
    format!("{}… ({} bytes)", text(&begins[..end]), key.len())
}
