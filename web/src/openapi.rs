//! The OpenAPI document, made from the same list that registers the routes.

use std::sync::OnceLock;

use utoipa::openapi::path::PathItem;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{OpenApi, RefOr};
use utoipa::{Modify, OpenApi as _};

use crate::auth::session::COOKIE_NAME;
use crate::problem::PROBLEM_JSON;
use crate::routes::Routes;

/// Adds the bearer scheme, and the dashboard's cookie.
pub(crate) struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut OpenApi) {
        let components = document.components.get_or_insert_default();
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        components.add_security_scheme("token", scheme);
        let cookie = ApiKey::Cookie(ApiKeyValue::with_description(
            COOKIE_NAME,
            "The dashboard's session. Unsafe methods need the header X-Farshore-Csrf as well.",
        ));
        components.add_security_scheme("session", SecurityScheme::ApiKey(cookie));
    }
}

/// The document.
pub fn document() -> &'static OpenApi {
    static DOCUMENT: OnceLock<OpenApi> = OnceLock::new();
    DOCUMENT.get_or_init(|| {
        let mut document = Routes::openapi();
        document.paths.paths.values_mut().for_each(problems);
        document
    })
}

/// Every answer that is no success is a problem document; any operation may fail on our side.
fn problems(item: &mut PathItem) {
    let all = [&mut item.get, &mut item.post, &mut item.delete, &mut item.put, &mut item.patch];
    for operation in all.into_iter().flatten() {
        let responses = &mut operation.responses.responses;
        if let Some(refused) = responses.get("4XX").cloned() {
            responses.insert("5XX".into(), refused);
        }
        for (_, response) in responses.iter_mut().filter(|(status, _)| status.starts_with(['4', '5'])) {
            let RefOr::T(response) = response else { continue };
            if let Some(content) = response.content.shift_remove("application/json") {
                response.content.insert(PROBLEM_JSON.into(), content);
            }
        }
    }
}

/// Every route: method and path, as in the document.
pub fn operations() -> Vec<(&'static str, &'static str)> {
    let paths = document().paths.paths.iter();
    let operations = paths.flat_map(|(path, item)| {
        let methods = [
            ("GET", item.get.is_some()),
            ("POST", item.post.is_some()),
            ("DELETE", item.delete.is_some()),
            ("PUT", item.put.is_some()),
            ("PATCH", item.patch.is_some()),
        ];
        methods.into_iter().filter(|(_, there)| *there).map(|(method, _)| (method, path.as_str()))
    });
    operations.collect()
}

/// The operation's name.
pub(crate) fn operation_id(method: &str, path: &str) -> Option<&'static str> {
    let item = document().paths.paths.get(path)?;
    let operation = match method {
        "GET" => &item.get,
        "POST" => &item.post,
        "DELETE" => &item.delete,
        "PUT" => &item.put,
        "PATCH" => &item.patch,
        _ => &None,
    };
    operation.as_ref()?.operation_id.as_deref()
}

/// The methods that the route at a request's path takes; none: there is no such route.
pub(crate) fn methods_at(path: &str) -> Vec<String> {
    let fits = |pattern: &str| {
        let (mut parts, mut segments) = (pattern.split('/'), path.split('/'));
        loop {
            match (parts.next(), segments.next()) {
                (None, None) => return true,
                (Some(part), Some(segment)) if part == segment => {}
                (Some(part), Some(segment)) if part.starts_with('{') && !segment.is_empty() => {}
                _ => return false,
            }
        }
    };
    operations().into_iter().filter(|(_, pattern)| fits(pattern)).map(|(method, _)| method.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_knows_its_methods_and_a_stranger_has_none() {
        assert_eq!(methods_at("/api/v1/machines"), ["GET"]);
        assert_eq!(methods_at("/api/v1/machines/x/move"), ["POST"]);
        assert_eq!(methods_at("/api/v1/machines/"), [""; 0]);
        assert_eq!(methods_at("/api/v1/machine"), [""; 0]);
    }
}
