//! Names with variables: `web-${value.user}`.

use std::collections::BTreeMap;

/// The text of a template with the values of its variables.
///
/// # Errors
/// Consul's text, with line and column.
pub(super) fn filled(template: &str, values: &BTreeMap<String, String>) -> Result<String, String> {
    let (mut text, mut rest) = (String::new(), template);
    while let Some(place) = rest.find("${") {
        if rest[..place].ends_with('$') {
            text.push_str(&rest[..place - 1]);
            text.push_str("${");
            rest = &rest[place + 2..];
            continue;
        }
        text.push_str(&rest[..place]);
        let inside = &rest[place + 2..];
        let name = inside.trim_start();
        let column = template.len() - name.len() + 1;
        let length = name.find(|c: char| !is_part(c)).unwrap_or(name.len());
        let (name, after) = name.split_at(length);
        let found = match after.trim_start().chars().next() {
            Some(next) => format!("{:?}", next.to_string()),
            None => "end of string".to_owned(),
        };
        if name.is_empty() {
            return Err(format!(
                "parse error at 1:{column}: expected expression but found {found}"
            ));
        }
        if after.starts_with('(') {
            return Err(format!("1:{column}: unknown function called: {name}"));
        }
        let Some(next) = after.trim_start().strip_prefix('}') else {
            let column = template.len() - after.trim_start().len() + 1;
            return Err(format!("parse error at 1:{column}: expected \"}}\" but found {found}"));
        };
        let value = values.get(name);
        text += value.ok_or_else(|| format!("1:{column}: unknown variable accessed: {name}"))?;
        rest = next;
    }
    Ok(text + rest)
}

fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_replaced_and_errors_have_their_place() {
        let values = BTreeMap::from([("value.u".to_owned(), "ann".to_owned())]);
        for (template, wanted) in [
            ("web-${value.u}-${ value.u }", Ok("web-ann-ann")),
            ("w-$${x}", Ok("w-${x}")),
            ("$x", Ok("$x")),
            ("web-${", Err("parse error at 1:7: expected expression but found end of string")),
            ("web-${}", Err("parse error at 1:7: expected expression but found \"}\"")),
            ("${value.u", Err("parse error at 1:10: expected \"}\" but found end of string")),
            ("${list.g}", Err("1:3: unknown variable accessed: list.g")),
            ("${ list.g }", Err("1:4: unknown variable accessed: list.g")),
            ("${upper(value.u)}", Err("1:3: unknown function called: upper")),
            ("${value.u}${value.nope}", Err("1:13: unknown variable accessed: value.nope")),
        ] {
            let found = filled(template, &values);
            assert_eq!(found.as_deref().map_err(String::as_str), wanted, "{template}");
        }
    }
}
