//! Annotations of the Lua language server, as far as the texts of this project use them.

/// A class or a function.
#[derive(Debug)]
pub(super) enum Item {
    Class(Class),
    Function(Function),
}

#[derive(Debug)]
pub(super) struct Class {
    /// Without the prefix `consul_ffi.`.
    pub name: &'static str,
    pub doc: String,
    pub fields: Vec<Value>,
}

#[derive(Debug)]
pub(super) struct Function {
    /// The class, or the module `consul_ffi`.
    pub owner: &'static str,
    pub name: &'static str,
    /// The parameters in parentheses.
    pub parameters: &'static str,
    pub doc: String,
    pub params: Vec<Value>,
    pub returns: Vec<Value>,
}

/// A field, a parameter or a returned value.
#[derive(Debug, PartialEq)]
pub(super) struct Value {
    pub name: &'static str,
    pub is_optional: bool,
    pub kind: &'static str,
    pub doc: &'static str,
}

/// The items of a text, in their order.
pub(super) fn items(text: &'static str) -> Vec<Item> {
    let mut items = Vec::new();
    let mut block = Block::default();
    for line in text.lines() {
        if let Some(class) = line.strip_prefix("---@class ") {
            let name = class.split(':').next().unwrap_or(class).trim_start_matches(PREFIX);
            block.class = Some(name);
        } else if let Some(field) = line.strip_prefix("---@field ") {
            block.fields.push(named(field));
        } else if let Some(param) = line.strip_prefix("---@param ") {
            block.params.push(named(param));
        } else if let Some(returned) = line.strip_prefix("---@return ") {
            block.returns.push(returned_value(returned));
        } else if let Some(doc) = line.strip_prefix("---").filter(|doc| !doc.starts_with('@')) {
            let gap = if block.doc.is_empty() { "" } else { " " };
            block.doc = format!("{}{gap}{doc}", block.doc);
        } else if let Some(signature) = line.strip_prefix("function ") {
            items.extend(block.function(signature).map(Item::Function));
            block = Block::default();
        } else if !line.starts_with("---") {
            items.extend(block.class().map(Item::Class));
            block = Block::default();
        }
    }
    items.extend(block.class().map(Item::Class));
    items
}

const PREFIX: &str = "consul_ffi.";

/// The annotations before a function, or of a class.
#[derive(Default)]
struct Block {
    class: Option<&'static str>,
    doc: String,
    fields: Vec<Value>,
    params: Vec<Value>,
    returns: Vec<Value>,
}

impl Block {
    fn class(self) -> Option<Class> {
        let Block { class, doc, fields, .. } = self;
        class.map(|name| Class { name, doc, fields })
    }

    fn function(self, signature: &'static str) -> Option<Function> {
        let Block { doc, params, returns, .. } = self;
        let (path, rest) = signature.split_once('(')?;
        let (owner, name) = path.split_once([':', '.'])?;
        let (parameters, _) = rest.split_once(')')?;
        Some(Function { owner, name, parameters, doc, params, returns })
    }
}

/// `name? type text`
fn named(text: &'static str) -> Value {
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    let (kind, doc) = split_type(rest);
    Value { name: name.trim_end_matches('?'), is_optional: name.ends_with('?'), kind, doc }
}

/// `type name text`
fn returned_value(text: &'static str) -> Value {
    let (kind, rest) = split_type(text);
    let (name, doc) = rest.split_once(' ').unwrap_or((rest, ""));
    Value { name, is_optional: kind.ends_with('?'), kind, doc }
}

/// Splits behind a type, which has spaces only in brackets and after a colon or a comma.
fn split_type(text: &'static str) -> (&'static str, &'static str) {
    let mut depth = 0;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        match c {
            '(' | '{' | '<' | '[' => depth += 1,
            ')' | '}' | '>' | ']' => depth -= 1,
            ' ' if depth == 0 && !matches!(before, ':' | ',') => {
                return (&text[..at], text[at..].trim_start());
            }
            _ => {}
        }
        before = c;
    }
    (text, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_end_where_their_brackets_do() {
        for (text, kind, doc) in [
            ("integer? how many", "integer?", "how many"),
            ("\"a\"|\"b\"", "\"a\"|\"b\"", ""),
            ("{ a?: string, [string]: any } text", "{ a?: string, [string]: any }", "text"),
            ("fun(a: any): string?, any iterator", "fun(a: any): string?, any", "iterator"),
            ("table<string, B>|false results by id", "table<string, B>|false", "results by id"),
        ] {
            assert_eq!(split_type(text), (kind, doc));
        }
    }

    #[test]
    fn classes_and_functions_are_read_with_their_annotations() {
        let text = "---@meta x\n-- A comment.\n\n---A lock.\n---@class consul_ffi.Lock: consul_ffi.Base\n\
                    ---@field key string its key\nlocal Lock = {}\n\n---Waits\n---for it.\n\
                    ---@param ... any its arguments\n---@return boolean success\n\
                    ---@return string? token the token\nfunction Lock:acquire(...) end\n";
        let [Item::Class(class), Item::Function(function)] = &items(text)[..] else {
            panic!("{:?}", items(text))
        };
        assert_eq!((class.name, class.doc.as_str()), ("Lock", "A lock."));
        let key = Value { name: "key", is_optional: false, kind: "string", doc: "its key" };
        assert_eq!(class.fields, [key]);
        assert_eq!(
            (function.owner, function.name, function.parameters),
            ("Lock", "acquire", "...")
        );
        assert_eq!(function.doc, "Waits for it.");
        assert_eq!(function.params[0].name, "...");
        let token = Value { name: "token", is_optional: true, kind: "string?", doc: "the token" };
        assert_eq!((function.returns.len(), &function.returns[1]), (2, &token));
    }
}
