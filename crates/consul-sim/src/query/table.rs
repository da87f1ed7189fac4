//! The stored queries, by id and by name.

use crate::http::decode::Json;
use crate::store::watch::Topic;
use std::collections::BTreeMap;

/// One prepared query.
#[derive(Clone, Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Query {
    pub id: String,
    /// The query's name, or for a template the start of the names that it answers.
    pub name: String,
    /// The session with which the query ends; empty if none.
    pub session: String,
    pub token: String,
    /// `Template`, `Service` and `DNS`, complete.
    pub definition: Json,
    pub create_index: u64,
    pub modify_index: u64,
}

impl Query {
    /// The query with the fields of a body.
    pub fn new(id: String, given: Json) -> Self {
        let text = |name: &str| given.at(name).as_text().to_owned();
        let parts = ["Template", "Service", "DNS"];
        let parts = parts.map(|name| (name.to_owned(), given.at(name).clone()));
        Self {
            id,
            name: text("Name"),
            session: text("Session"),
            token: text("Token"),
            definition: Json::Object(parts.into()),
            create_index: 0,
            modify_index: 0,
        }
    }

    pub fn is_template(&self) -> bool {
        !self.definition.at("Template").at("Type").as_text().is_empty()
    }

    /// The name that rules of policies speak of; `None` if the query has none.
    pub fn acl_name(&self) -> Option<&str> {
        (!self.name.is_empty() || self.is_template()).then_some(&self.name)
    }

    /// The query in replies.
    pub fn view(&self) -> Json {
        let own = [("ID", &self.id), ("Name", &self.name), ("Session", &self.session)];
        let own = own.into_iter().chain([("Token", &self.token)]);
        let own = own.map(|(name, text)| (name.to_owned(), Json::Text(text.clone())));
        let indexes = [("CreateIndex", self.create_index), ("ModifyIndex", self.modify_index)];
        let indexes = indexes.map(|(name, index)| (name.to_owned(), Json::Number(index.into())));
        Json::Object(own.chain(self.definition.members().iter().cloned()).chain(indexes).collect())
    }
}

/// All prepared queries.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
pub(crate) struct QueryTable {
    by_id: BTreeMap<String, Query>,
    newest: u64,
}

impl QueryTable {
    /// The index of the last change.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    pub(super) fn get(&self, id: &str) -> Option<&Query> {
        self.by_id.get(&id.to_lowercase())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Query> {
        self.by_id.values()
    }

    fn named(&self, name: &str) -> Option<&Query> {
        self.all().find(|query| query.acl_name().is_some_and(|own| own.eq_ignore_ascii_case(name)))
    }

    /// Refuses a name that another query has, or that is an id.
    pub(super) fn check(&self, query: &Query) -> Result<(), String> {
        let name = &query.name;
        let is_taken = query.acl_name().and_then(|name| self.named(name));
        if is_taken.is_some_and(|other| other.id != query.id) {
            return Err(match name.is_empty() {
                true => "a query template with an empty name already exists".to_owned(),
                false => format!("name '{name}' aliases an existing query name"),
            });
        }
        match self.get(name) {
            Some(_) => Err(format!("name '{name}' aliases an existing query ID")),
            None => Ok(()),
        }
    }

    pub(super) fn put(&mut self, mut query: Query, index: u64) {
        let present = self.by_id.get(&query.id);
        query.create_index = present.map_or(index, |present| present.create_index);
        query.modify_index = index;
        self.by_id.insert(query.id.clone(), query);
        self.newest = index;
    }

    pub(super) fn remove(&mut self, id: &str, index: u64) {
        self.by_id.remove(&id.to_lowercase());
        self.newest = index;
    }

    /// Deletes the queries of a session that ended.
    pub fn end_session(&mut self, session: &str, index: u64, touched: &mut Vec<Topic>) {
        let before = self.by_id.len();
        self.by_id.retain(|_, query| query.session != session);
        if self.by_id.len() != before {
            self.newest = index;
            touched.push(Topic::Queries);
        }
    }
}
