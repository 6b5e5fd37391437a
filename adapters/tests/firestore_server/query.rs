//! Queries over one collection, answered only if the service's automatic indexes of single fields suffice.
//!
//! Allowed are equalities alone, in the order of names, or one field that is compared, ordered by, or both. Everything else would need a
//! composite index and is refused as the service refuses it.

use std::cmp::Ordering;

use serde_json::Value;

use super::store::{Answer, Refusal, State, invalid, known};

struct Filter {
    field: String,
    op: String,
    value: Value,
}

struct Order {
    field: String,
    descending: bool,
}

/// A query as it was understood.
pub struct Asked {
    pub collection: String,
    pub select: Option<Vec<String>>,
    filters: Vec<Filter>,
    orders: Vec<Order>,
    start: Option<(Vec<Value>, bool)>,
    limit: usize,
    offset: usize,
}

impl Asked {
    pub fn parse(query: &Value) -> Answer<Asked> {
        known(query, &["select", "from", "where", "orderBy", "startAt", "limit", "offset"])?;
        let from = query.get("from").and_then(|from| from.get(0)).unwrap_or(&Value::Null);
        known(from, &["collectionId", "allDescendants"])?;
        let collection = from.get("collectionId").and_then(Value::as_str).unwrap_or_default().to_owned();
        if collection.is_empty() || from.get("allDescendants").and_then(Value::as_bool) == Some(true) {
            return Err(Refusal("UNIMPLEMENTED", "collection groups are not known here".to_owned()));
        }
        let mut filters = Vec::new();
        if let Some(filter) = query.get("where") {
            take_filter(filter, &mut filters)?;
        }
        let path = |value: &Value| value.get("fieldPath").and_then(Value::as_str).unwrap_or_default().to_owned();
        let order = |order: &Value| Order {
            field: order.get("field").map(path).unwrap_or_default(),
            descending: order.get("direction").is_some_and(|way| *way == "DESCENDING" || *way == 2),
        };
        let mut orders: Vec<Order> = list(query.get("orderBy")).iter().map(order).collect();
        let selected = query.get("select").map(|select| list(select.get("fields")).iter().map(path).collect());
        let number = |name: &str| match query.get(name) {
            Some(value) => value.as_u64().or_else(|| value.get("value")?.as_u64()),
            None => None,
        };
        let start = query.get("startAt").map(|start| {
            (list(start.get("values")).to_vec(), start.get("before").and_then(Value::as_bool).unwrap_or(false))
        });
        check_index(&filters, &mut orders)?;
        if start.as_ref().is_some_and(|(values, _)| values.len() > orders.len()) {
            return invalid("Cursor has too many values.");
        }
        let limit = number("limit").map_or(usize::MAX, |limit| limit as usize);
        let offset = number("offset").unwrap_or(0) as usize;
        Ok(Asked { collection, select: selected, filters, orders, start, limit, offset })
    }

    /// The documents that are asked for, in order.
    pub fn run<'a>(&self, documents: impl Iterator<Item = (&'a String, &'a State)>) -> Vec<(&'a String, &'a State)> {
        let has = |state: &State, order: &Order| order.field == "__name__" || state.fields.contains_key(&order.field);
        let start: Option<(Vec<Key>, bool)> =
            self.start.as_ref().map(|(values, before)| (values.iter().map(Key::of).collect(), *before));
        let key = |name: &str, state: &State| -> Vec<Key> {
            self.orders.iter().map(|order| Key::of(&value_of(name, state, &order.field))).collect()
        };
        let after = |keys: &[Key]| match &start {
            None => true,
            Some((values, before)) => match self.compare(keys, values) {
                Ordering::Equal => *before,
                other => other.is_gt(),
            },
        };
        let mut found: Vec<(Vec<Key>, (&String, &State))> = documents
            .filter(|(_, state)| self.orders.iter().all(|order| has(state, order)))
            .filter(|(name, state)| self.filters.iter().all(|filter| filter.admits(name, state)))
            .map(|(name, state)| (key(name, state), (name, state)))
            .filter(|(keys, _)| after(keys))
            .collect();
        found.sort_by(|(a, _), (b, _)| self.compare(a, b));
        found.into_iter().map(|(_, document)| document).skip(self.offset).take(self.limit).collect()
    }

    fn compare(&self, a: &[Key], b: &[Key]) -> Ordering {
        let compared = a.iter().zip(b).zip(&self.orders).map(|((a, b), order)| {
            let compared = a.compare(b);
            if order.descending { compared.reverse() } else { compared }
        });
        compared.fold(Ordering::Equal, Ordering::then)
    }
}

/// A value as it is ordered.
enum Key {
    Number(f64),
    Time(u64),
    Text(u8, String),
    Other(u8),
}

impl Key {
    fn of(value: &Value) -> Key {
        let text = |kind: &str| value.get(kind).and_then(Value::as_str).unwrap_or_default().to_owned();
        match rank(value) {
            1 => Key::Other(1 + u8::from(value.get("booleanValue").and_then(Value::as_bool).unwrap_or(false))),
            2 => {
                let double = value.get("doubleValue").and_then(Value::as_f64);
                Key::Number(double.unwrap_or_else(|| text("integerValue").parse().unwrap_or(0.0)))
            }
            3 => Key::Time(super::store::parse_time(&text("timestampValue")).unwrap_or(0)),
            4 => Key::Text(5, text("stringValue")),
            5 => Key::Text(6, text("bytesValue")),
            6 => Key::Text(7, text("referenceValue")),
            0 => Key::Other(0),
            _ => Key::Other(9),
        }
    }

    /// The order of kinds, as the service documents it.
    fn rank(&self) -> u8 {
        match self {
            Key::Number(_) => 3,
            Key::Time(_) => 4,
            Key::Text(rank, _) | Key::Other(rank) => *rank,
        }
    }

    fn compare(&self, other: &Key) -> Ordering {
        match (self, other) {
            (Key::Number(a), Key::Number(b)) => a.total_cmp(b),
            (Key::Time(a), Key::Time(b)) => a.cmp(b),
            (Key::Text(rank, a), Key::Text(other, b)) => rank.cmp(other).then_with(|| a.cmp(b)),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn take_filter(filter: &Value, filters: &mut Vec<Filter>) -> Answer<()> {
    known(filter, &["compositeFilter", "fieldFilter"])?;
    if let Some(composite) = filter.get("compositeFilter") {
        if !composite.get("op").is_some_and(|op| *op == "AND" || *op == 1) {
            return Err(Refusal("UNIMPLEMENTED", "only AND is known here".to_owned()));
        }
        return list(composite.get("filters")).iter().try_for_each(|inner| take_filter(inner, filters));
    }
    let one = filter.get("fieldFilter").unwrap_or(&Value::Null);
    known(one, &["field", "op", "value"])?;
    let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
    let field = text(one.get("field").and_then(|field| field.get("fieldPath")));
    let value = one.get("value").cloned().unwrap_or_default();
    let ops = ["LESS_THAN", "LESS_THAN_OR_EQUAL", "GREATER_THAN", "GREATER_THAN_OR_EQUAL", "EQUAL", "", "", "IN"];
    // Names of an enumeration may come as their numbers, from 1.
    let numbered = one.get("op").and_then(Value::as_u64).and_then(|n| ops.get((n as usize).wrapping_sub(1)));
    let op = numbered.map_or_else(|| text(one.get("op")), |op| (*op).to_owned());
    if field.is_empty() || op.is_empty() || !ops.contains(&op.as_str()) {
        return invalid(format!("filter {op} of field {field:?} is not known here"));
    }
    filters.push(Filter { field, op, value });
    Ok(())
}

/// What needs a composite index is refused; what is left is ordered as the service orders it by itself.
fn check_index(filters: &[Filter], orders: &mut Vec<Order>) -> Answer<()> {
    let equals: Vec<&str> =
        filters.iter().filter(|f| matches!(f.op.as_str(), "EQUAL" | "IN")).map(|f| f.field.as_str()).collect();
    let mut ranged: Vec<&str> =
        filters.iter().filter(|f| !matches!(f.op.as_str(), "EQUAL" | "IN")).map(|f| f.field.as_str()).collect();
    ranged.dedup();
    if let (Some(field), true) = (ranged.first(), orders.is_empty()) {
        orders.push(Order { field: (*field).to_owned(), descending: false });
    }
    let named: Vec<&str> =
        orders.iter().map(|order| order.field.as_str()).filter(|field| *field != "__name__").collect();
    let single =
        named.len() <= 1 && ranged.len() <= 1 && ranged.iter().all(|field| named.is_empty() || named[0] == *field);
    let pure = equals.is_empty() || (named.is_empty() && ranged.iter().all(|field| *field == "__name__"));
    let one_way = orders.iter().all(|order| order.descending == orders[0].descending);
    let plain = equals.is_empty() || orders.iter().all(|order| !order.descending);
    if !(single && pure && one_way && plain) {
        return Err(Refusal(
            "FAILED_PRECONDITION",
            "The query requires an index. You can create it here: (nowhere)".to_owned(),
        ));
    }
    if orders.iter().all(|order| order.field != "__name__") {
        let descending = orders.last().is_some_and(|order| order.descending);
        orders.push(Order { field: "__name__".to_owned(), descending });
    }
    Ok(())
}

impl Filter {
    fn admits(&self, name: &str, state: &State) -> bool {
        if self.field != "__name__" && !state.fields.contains_key(&self.field) {
            return false;
        }
        let value = value_of(name, state, &self.field);
        if self.op == "IN" {
            let wanted = self.value.get("arrayValue").map(|array| list(array.get("values"))).unwrap_or(&[]);
            return wanted.contains(&value);
        }
        // A comparison holds only between values of one kind.
        let same_kind = rank(&value) == rank(&self.value);
        let order = Key::of(&value).compare(&Key::of(&self.value));
        same_kind
            && match self.op.as_str() {
                "EQUAL" => order.is_eq(),
                "LESS_THAN" => order.is_lt(),
                "LESS_THAN_OR_EQUAL" => order.is_le(),
                "GREATER_THAN" => order.is_gt(),
                _ => order.is_ge(),
            }
    }
}

fn value_of(name: &str, state: &State, field: &str) -> Value {
    match field {
        "__name__" => serde_json::json!({ "referenceValue": name }),
        _ => state.fields.get(field).cloned().unwrap_or_default(),
    }
}

/// Kinds that compare with each other.
fn rank(value: &Value) -> u8 {
    let kind = value.as_object().and_then(|object| object.keys().next()).map_or("", String::as_str);
    match kind {
        "nullValue" => 0,
        "booleanValue" => 1,
        "integerValue" | "doubleValue" => 2,
        "timestampValue" => 3,
        "stringValue" => 4,
        "bytesValue" => 5,
        "referenceValue" => 6,
        _ => 7,
    }
}
