//! The shipped catalogs, and their editions: what is published in the middle.

use quota_core::catalog::Catalog;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

pub const PRODUCTS: [&str; 3] = ["applyx", "candidate-chat", "resume-builder"];

const TEXTS: [&str; 3] = [
    include_str!("../../catalogs/applyx/catalog.toml"),
    include_str!("../../catalogs/candidate-chat/catalog.toml"),
    include_str!("../../catalogs/resume-builder/catalog.toml"),
];

/// What ApplyX's free plan gives a day, by the version of its catalog.
pub const fn free_credits(version: u32) -> i64 {
    if version % 2 == 1 { 3 } else { 5 }
}

/// The text that is published as a version of a product's catalog.
pub fn text(product: &str, version: u32) -> String {
    let number = PRODUCTS
        .iter()
        .position(|it| *it == product)
        .expect("a product");
    let credits = format!(
        "resume_customizations = {{ limit = {}, window = \"day\" }}",
        free_credits(version)
    );
    let usual = "resume_customizations = { limit = 3, window = \"day\" }";
    let text = TEXTS[number].replace(usual, &credits);
    format!("{text}\n# Edition {version}.\n")
}

/// A catalog, read once by each thread: reading takes long, and changes nothing.
pub fn parsed(text: &str) -> Arc<Catalog> {
    thread_local! {
        static READ: RefCell<BTreeMap<String, Arc<Catalog>>> = const { RefCell::new(BTreeMap::new()) };
    }
    READ.with_borrow_mut(|read| {
        if let Some(catalog) = read.get(text) {
            return Arc::clone(catalog);
        }
        let catalog = Arc::new(Catalog::parse(text).expect("a catalog that was published"));
        read.insert(text.to_owned(), Arc::clone(&catalog));
        catalog
    })
}
