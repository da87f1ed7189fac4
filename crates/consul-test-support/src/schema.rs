//! Documents that are to be as a JSON schema says.

use serde_json::Value;

/// Whether a value is as a schema says, which has the words that this knows.
pub fn fits(all: &Value, schema: &Value, value: &Value) -> bool {
    let members = || value.as_object().into_iter().flatten();
    schema.as_object().expect("an object").iter().all(|(word, wanted)| match word.as_str() {
        "$schema" | "$defs" | "title" | "description" => true,
        "$ref" => fits(
            all,
            all.pointer(wanted.as_str().expect("a schema").trim_start_matches('#'))
                .expect("a schema"),
            value,
        ),
        "oneOf" => {
            wanted.as_array().expect("a schema").iter().filter(|one| fits(all, one, value)).count()
                == 1
        }
        "allOf" => wanted.as_array().expect("a schema").iter().all(|one| fits(all, one, value)),
        "const" => value == wanted,
        "enum" => wanted.as_array().expect("a schema").contains(value),
        "type" => match wanted {
            Value::Array(types) => {
                types.iter().any(|one| is_a(one.as_str().expect("a schema"), value))
            }
            one => is_a(one.as_str().expect("a schema"), value),
        },
        "minimum" => value.as_f64().is_none_or(|value| value >= wanted.as_f64().expect("a schema")),
        "required" => wanted.as_array().expect("a schema").iter().all(|name| {
            !value.is_object() || value.get(name.as_str().expect("a schema")).is_some()
        }),
        "properties" => {
            members().all(|(name, value)| wanted.get(name).is_none_or(|one| fits(all, one, value)))
        }
        "additionalProperties" => {
            let known = |name: &str| {
                schema.get("properties").is_some_and(|named| named.get(name).is_some())
            };
            members().all(|(name, value)| match wanted {
                Value::Bool(is_allowed) => *is_allowed || known(name),
                one => known(name) || fits(all, one, value),
            })
        }
        "items" => value.as_array().into_iter().flatten().all(|item| fits(all, wanted, item)),
        other => panic!("{other}: unknown"),
    })
}

fn is_a(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other}: unknown"),
    }
}
