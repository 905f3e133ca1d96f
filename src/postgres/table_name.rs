//! Names of schemas, tables and indexes, quoted for statements.

use std::fmt;

use super::PostgresStoreError;

/// A table's name, with its schema if one was given. `Display` quotes it for a statement.
#[derive(Debug, Clone)]
pub(crate) struct TableName {
    schema: Option<String>,
    table: String,
}

impl TableName {
    /// A table in the first schema of the connection's `search_path`.
    pub(crate) fn unqualified(table: &str) -> Self {
        Self { schema: None, table: table.to_owned() }
    }

    /// A table in a schema.
    pub(crate) fn new(schema: &str, table: &str) -> Result<Self, PostgresStoreError> {
        // PostgreSQL's limit is 63 bytes. A table's name leaves room for the suffixes of its indexes' names.
        if [(schema, 63), (table, 50)]
            .iter()
            .any(|(name, limit)| name.is_empty() || name.len() > *limit || name.contains('\0'))
        {
            return Err(PostgresStoreError::Name);
        }
        Ok(Self { schema: Some(schema.to_owned()), table: table.to_owned() })
    }

    /// The schema, quoted, if one was given.
    pub(crate) fn schema(&self) -> Option<String> {
        self.schema.as_deref().map(quote)
    }

    /// The table without its schema, quoted.
    pub(super) fn table(&self) -> String {
        quote(&self.table)
    }

    /// The name of one of the table's indexes, quoted, to create it. An index is always in its table's schema.
    pub(crate) fn index(&self, suffix: &str) -> String {
        quote(&format!("{}_{suffix}", self.table))
    }

    /// The name of an index that exists, or of a table beside this one: with the schema, if one was given.
    pub(crate) fn relation(&self, suffix: &str) -> String {
        let schema = self.schema().map(|schema| format!("{schema}.")).unwrap_or_default();
        format!("{schema}{}", quote(&format!("{}_{suffix}", self.table)))
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = self.schema() {
            write!(f, "{schema}.")?;
        }
        f.write_str(&quote(&self.table))
    }
}

/// Quotes an identifier.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
