//! Publishing a catalog: one new version in every partition at once, or nothing.

use crate::config::ProductSecrets;
use crate::shelf::Shelf;
use quota_core::catalog::{Catalog, Fault, compatible};
use quota_core::event::{CatalogPublished, Event};
use quota_core::publication::{Place, publication};
use quota_core::row::Row;
use quota_postgres::{AppendError, Ledger, Publication, publish};
use thiserror::Error;

/// What came of publishing.
#[derive(Clone, Debug)]
pub struct Published {
    /// The version in force now.
    pub version: u32,
    /// The row that published it in the first partition; none where this text was in force already.
    pub row: Option<Row>,
}

/// A catalog was not published.
#[derive(Clone, Debug, Error)]
pub enum PublishError {
    /// It is wrong.
    #[error("the catalog is not valid: {}", list(.0))]
    Faulty(Vec<Fault>),
    /// Another version is in force than the caller built on.
    #[error("version {current} was published in the same moment")]
    Stale {
        /// The version in force; 0 where there is none.
        current: u32,
    },
    /// It cannot be done now; nothing was published.
    #[error("nothing was published: {0}")]
    Unavailable(String),
    /// The connection was lost on the way: it may be published, or not.
    #[error("it may be published or not; publish it again, the same text changes nothing ({0})")]
    Unknown(String),
}

fn list(faults: &[Fault]) -> String {
    let faults: Vec<String> = faults.iter().map(Fault::to_string).collect();
    faults.join("; ")
}

impl From<quota_postgres::PublishError<Self>> for PublishError {
    fn from(error: quota_postgres::PublishError<Self>) -> Self {
        match error {
            quota_postgres::PublishError::Refused(refused) => refused,
            quota_postgres::PublishError::Append(AppendError::Ambiguous(why)) => Self::Unknown(why),
            quota_postgres::PublishError::Append(error) => Self::Unavailable(error.to_string()),
        }
    }
}

/// Publishes a catalog, if `if_match` is the version in force, or none is asked for. The text in force published again
/// changes nothing.
///
/// # Errors
/// Its faults, the race that was lost, or why it cannot be done now.
pub async fn publish_catalog(
    ledger: &Ledger,
    product: &str,
    text: &str,
    if_match: Option<u32>,
) -> Result<Published, PublishError> {
    let catalog = Catalog::parse(text).map_err(PublishError::Faulty)?;
    if catalog.product() != product {
        let message = format!(
            "is {:?}, but it was published for {product:?}",
            catalog.product()
        );
        return Err(fault("product", message));
    }
    apart(ledger, &catalog).await?;
    let mut lane = ledger
        .lane()
        .await
        .map_err(|error| PublishError::Unavailable(error.to_string()))?;
    let mut published = Published {
        version: 0,
        row: None,
    };
    publish(&mut lane, product, |found| {
        let (version, rows) = rows(&catalog, found, if_match)?;
        published = Published {
            version,
            row: rows.first().cloned(),
        };
        Ok(rows)
    })
    .await?;
    lane.close().await;
    Ok(published)
}

/// Whether what must be the product's alone is: the path of its own page, which says whose page it is and nothing else does;
/// and its name in the environment, since `a-b` and `a_b` would have each other's secrets.
async fn apart(ledger: &Ledger, catalog: &Catalog) -> Result<(), PublishError> {
    let shelf = Shelf::default();
    let loaded = shelf.load(ledger).await;
    loaded.map_err(|error| PublishError::Unavailable(format!("{error:#}")))?;
    let product = catalog.product();
    let products = shelf.products();
    // One that is there already stays: it was published before this was asked.
    let new = !products.iter().any(|known| &**known == product);
    let setting = |product: &str| ProductSecrets::name(product, "");
    let mut others = products.iter();
    if let Some(twin) = others.find(|known| setting(known) == setting(product))
        && new
    {
        let message = format!(
            "would share its settings {}… with the product {twin:?}",
            setting(product)
        );
        return Err(fault("product", message));
    }
    let page = catalog.model().usage_page.as_ref();
    match page.and_then(|page| shelf.with_usage_page(&page.path)) {
        Some(owner) if &*owner != product => Err(fault(
            "usage_page.path",
            format!("is {owner:?}'s page already"),
        )),
        _ => Ok(()),
    }
}

fn fault(place: &str, message: String) -> PublishError {
    PublishError::Faulty(vec![Fault {
        place: place.to_owned(),
        message,
    }])
}

/// The version that is in force afterwards, and the rows that put it in force.
fn rows(
    catalog: &Catalog,
    found: &Publication,
    if_match: Option<u32>,
) -> Result<(u32, Vec<Row>), PublishError> {
    let newest = found.newest.first().and_then(Option::as_ref);
    let current = newest.map_or(0, |row| row.catalog_version);
    if if_match.is_some_and(|wanted| wanted != current) {
        return Err(PublishError::Stale { current });
    }
    if let Some(text) = newest.and_then(text_of) {
        if text == catalog.text() {
            return Ok((current, Vec::new()));
        }
        // What was published once parses for ever; where a later version's reader disagrees, only its own rules count.
        if let Ok(known) = Catalog::parse(&text) {
            let faults = compatible(known.model(), catalog.model());
            if !faults.is_empty() {
                return Err(PublishError::Faulty(faults));
            }
        }
    }
    let partitions = (0_u32..).zip(found.heads.iter().zip(&found.newest));
    let places: Vec<Place> = partitions
        .map(|(partition, (head, newest))| {
            let before = newest.as_ref().map(|row| (row.subject_seq, row.offset));
            Place {
                partition,
                head: *head,
                before,
            }
        })
        .collect();
    Ok((
        current + 1,
        publication(
            catalog.product(),
            current + 1,
            catalog.text(),
            &places,
            found.clock,
        ),
    ))
}

fn text_of(row: &Row) -> Option<String> {
    match Event::decode(&row.event_type, row.type_version, &row.payload) {
        Ok(Event::CatalogPublished(CatalogPublished { text, .. })) => Some(text),
        _ => None,
    }
}
