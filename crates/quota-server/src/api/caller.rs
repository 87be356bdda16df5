//! Who calls: a service by its key, or a user by a token of their product. A user reads and acts for itself alone.

use crate::api::App;
use crate::api::call::Call;
use crate::api::problem::Problem;
use crate::auth::{BadToken, Grant, Scope, is_token};
use axum::http::header::AUTHORIZATION;
use quota_core::command::Address;
use std::sync::Arc;

/// The header in which a service says for which user it acts.
pub const ON_BEHALF: &str = "X-Quota-Subject";

/// Whoever calls.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A service, by its key.
    Service(Arc<Grant>),
    /// A user of the product, by a token.
    User(String),
}

impl Call {
    /// Who calls about a product.
    ///
    /// # Errors
    /// 401: nobody that we know.
    pub async fn caller(&self, product: &str) -> Result<Caller, Problem> {
        let word = self.bearer().ok_or_else(nobody)?;
        if let Some(grant) = self.app.keys.find(word) {
            return Ok(Caller::Service(grant));
        }
        if !is_token(word) {
            return Err(Problem::unauthorized("this key is wrong or was revoked"));
        }
        // A product that is none has no tokens; its name is not looked up among the settings.
        if !self.app.service.has_product(product) {
            return Err(bad(BadToken::NotSet));
        }
        let subject = self.app.tokens.subject(product, word).await;
        subject.map(Caller::User).map_err(bad)
    }

    /// The word after `Bearer`.
    #[must_use]
    pub fn bearer(&self) -> Option<&str> {
        let mut values = self.parts.headers.get_all(AUTHORIZATION).iter();
        let (value, second) = (values.next()?, values.next());
        let (scheme, word) = value.to_str().ok()?.split_once(' ')?;
        (second.is_none() && scheme.eq_ignore_ascii_case("bearer")).then(|| word.trim())
    }

    /// The product of the path, once its caller may do what `scopes` name (any of them); users may not.
    ///
    /// # Errors
    /// 401, 403, or 404 for a product that does not exist.
    pub async fn product(&self, scopes: &[Scope]) -> Result<&str, Problem> {
        let product = self.raw("product");
        match self.caller(product).await? {
            Caller::Service(grant) => self.allow(&grant, product, scopes)?,
            Caller::User(_) => return Err(for_services()),
        }
        Ok(product)
    }

    /// The subject of the path, once its caller may do what `scopes` name (any of them); users may not.
    ///
    /// # Errors
    /// As for [`Call::product`], and 422 for a name that breaks the rule.
    pub async fn subject(&self, scopes: &[Scope]) -> Result<Address, Problem> {
        let product = self.product(scopes).await?;
        let subject = self.name("subject")?;
        Ok(self.app.address(product, subject))
    }

    /// The same, where the user that the subject is may do it too.
    ///
    /// # Errors
    /// As for [`Call::subject`], and 403 for another user.
    pub async fn subject_or_self(&self, scopes: &[Scope]) -> Result<Address, Problem> {
        let product = self.raw("product");
        match self.caller(product).await? {
            Caller::Service(grant) => self.allow(&grant, product, scopes)?,
            Caller::User(user) if user != self.raw("subject") => return Err(somebody_else()),
            Caller::User(_) => {}
        }
        let subject = self.name("subject")?;
        Ok(self.app.address(product, subject))
    }

    /// The user that a call on a product's own endpoint is about: by its token, or named by a service in a header.
    ///
    /// # Errors
    /// 401, 403, or 422 for a service that names nobody.
    pub async fn user(&self, product: &str, scope: Scope) -> Result<Address, Problem> {
        let named = self.header(ON_BEHALF)?.map(str::trim);
        let subject = match self.caller(product).await? {
            Caller::Service(grant) => {
                self.allow(&grant, product, &[scope])?;
                let subject = named.ok_or_else(|| {
                    Problem::invalid(ON_BEHALF, "a service names the user in this header")
                })?;
                crate::api::call::visible(subject)
                    .map_err(|why| Problem::invalid(ON_BEHALF, why))?;
                subject.to_owned()
            }
            Caller::User(user) if named.is_some_and(|named| named != user) => {
                return Err(somebody_else());
            }
            Caller::User(user) => user,
        };
        Ok(self.app.address(product, &subject))
    }

    /// Whether a key opens a product for any of `scopes`.
    ///
    /// # Errors
    /// 403, or 404 for a product that does not exist.
    pub fn allow(&self, grant: &Grant, product: &str, scopes: &[Scope]) -> Result<(), Problem> {
        if !grant.opens(product) {
            return Err(Problem::forbidden(
                "wrong_product",
                "this key is another product's",
            ));
        }
        if !self.app.service.has_product(product) {
            return Err(Problem::unknown_product());
        }
        if !scopes.iter().any(|scope| grant.scopes.holds(*scope)) {
            let words: Vec<&str> = scopes.iter().map(|scope| scope.word()).collect();
            let detail = format!("this key has not the scope {}", words.join(" or "));
            return Err(Problem::forbidden("missing_scope", detail));
        }
        Ok(())
    }
}

impl App {
    /// Where a subject's events are.
    #[must_use]
    pub fn address(&self, product: &str, subject: &str) -> Address {
        Address::new(product, subject, self.service.partitions())
    }
}

/// A token that is not good, as its sender is told.
pub fn bad(why: BadToken) -> Problem {
    Problem::unauthorized(why.to_string())
}

fn nobody() -> Problem {
    Problem::unauthorized("send a key or a user's token: Authorization: Bearer <key or token>")
}

fn for_services() -> Problem {
    let detail = "this is for services, with a key; a user's token is good for the user's own check, entitlements, \
                  ledger and the product's own endpoints";
    Problem::forbidden("users_may_not", detail)
}

fn somebody_else() -> Problem {
    Problem::forbidden(
        "wrong_subject",
        "a user's token is good for that user alone",
    )
}
