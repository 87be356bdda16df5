//! The catalogs that this node knows, by product and version.

use quota_core::catalog::Catalog;
use quota_core::event::Event;
use quota_core::row::Row;
use quota_postgres::Ledger;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;
use tokio::sync::Mutex;

type Versions = BTreeMap<u32, Arc<Catalog>>;

/// The catalogs that this node knows. They are immutable, so nothing here is ever replaced.
#[derive(Default)]
pub struct Shelf {
    products: RwLock<HashMap<Arc<str>, Versions>>,
    /// When the last whole reading began.
    read_at: Mutex<Option<Instant>>,
}

impl Shelf {
    /// A product's catalog of a version.
    #[must_use]
    pub fn get(&self, product: &str, version: u32) -> Option<Arc<Catalog>> {
        let products = self.products.read().unwrap_or_else(PoisonError::into_inner);
        products.get(product)?.get(&version).cloned()
    }

    /// A product's newest catalog, and its version.
    #[must_use]
    pub fn newest(&self, product: &str) -> Option<(u32, Arc<Catalog>)> {
        let products = self.products.read().unwrap_or_else(PoisonError::into_inner);
        products
            .get(product)?
            .last_key_value()
            .map(|(version, catalog)| (*version, Arc::clone(catalog)))
    }

    /// The products that have a catalog, sorted.
    #[must_use]
    pub fn products(&self) -> Vec<Arc<str>> {
        let products = self.products.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<Arc<str>> = products.keys().cloned().collect();
        names.sort();
        names
    }

    /// The product whose own usage page is at a path.
    #[must_use]
    pub fn with_usage_page(&self, path: &str) -> Option<Arc<str>> {
        let products = self.products.read().unwrap_or_else(PoisonError::into_inner);
        let has_it = |versions: &Versions| {
            let newest = versions.last_key_value();
            let page = newest.and_then(|(_, catalog)| catalog.model().usage_page.as_ref());
            page.is_some_and(|page| page.path == path)
        };
        let owners = products.iter().filter(|(_, versions)| has_it(versions));
        // Publishing lets no two have one; should two have raced, all nodes choose the same.
        owners.map(|(product, _)| Arc::clone(product)).min()
    }

    /// Takes a catalog from the row that published it. Rows of other types change nothing.
    ///
    /// # Errors
    /// A published catalog that this build cannot read: whoever goes on would judge by the wrong one.
    pub fn take(&self, row: &Row) -> anyhow::Result<()> {
        if &*row.event_type != "catalog.published"
            || self.get(&row.product, row.catalog_version).is_some()
        {
            return Ok(());
        }
        let event = Event::decode(&row.event_type, row.type_version, &row.payload)?;
        let Event::CatalogPublished(published) = event else {
            return Ok(());
        };
        let catalog = Catalog::parse(&published.text).map_err(|faults| {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            let (product, version) = (&row.product, published.version);
            anyhow::anyhow!(
                "catalog {version} of {product} cannot be read by this version: {}",
                faults.join("; ")
            )
        })?;
        let mut products = self
            .products
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        products
            .entry(Arc::clone(&row.product))
            .or_default()
            .insert(published.version, Arc::new(catalog));
        Ok(())
    }

    /// Takes every catalog that the ledger holds.
    ///
    /// # Errors
    /// The ledger cannot be read, or a catalog in it cannot.
    pub async fn load(&self, ledger: &Ledger) -> anyhow::Result<()> {
        self.load_since(ledger, Instant::now()).await
    }

    /// The same, unless a reading has begun since then: whoever met a word that no catalog here has looks once whether
    /// another node has published it a moment ago, and many who meet such words share one look.
    ///
    /// # Errors
    /// See [`Shelf::load`].
    pub async fn load_since(&self, ledger: &Ledger, since: Instant) -> anyhow::Result<()> {
        let mut read_at = self.read_at.lock().await;
        if read_at.is_some_and(|begun| begun > since) {
            return Ok(());
        }
        let begun = Instant::now();
        for row in ledger.catalog_rows(None).await? {
            self.take(&row)?;
        }
        *read_at = Some(begun);
        Ok(())
    }
}
