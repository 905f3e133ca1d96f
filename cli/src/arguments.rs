//! Parsers of arguments. Each error names the valid values.

use std::fmt::Display;
use std::net::IpAddr;
use std::ops::{Bound, RangeBounds};
use std::str::FromStr;
use std::time::Duration;

use humantime::parse_duration;
use reqwest::Url;

use crate::failure::Failure;
use crate::output::clean;

/// Parses a whole number in a range.
pub(crate) fn number<T>(text: &str, range: impl RangeBounds<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + Display,
{
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| match (range.start_bound(), range.end_bound()) {
        (Bound::Included(least), Bound::Included(most)) => {
            format!("expected a whole number from {least} to {most}")
        }
        (Bound::Included(least), _) => format!("expected a whole number, at least {least}"),
        _ => "expected a whole number".to_owned(),
    })
}

/// The longest duration, 100 years: any clock can add it to its time.
const LONGEST: Duration = Duration::from_secs(100 * 31_557_600);

/// Parses a duration, such as `10s`.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)
        .map_err(|_| "expected a duration with a unit, such as 500ms, 10s, 5m or 7d".to_owned())?;
    if time > LONGEST {
        return Err(format!("expected at most {}", humantime::format_duration(LONGEST)));
    }
    Ok(time)
}

/// Parses a duration of at least `least`.
pub(crate) fn time_from(text: &str, least: Duration) -> Result<Duration, String> {
    match time(text)? {
        time if time < least => Err(format!("expected at least {}", humantime::format_duration(least))),
        time => Ok(time),
    }
}

/// Parses an IP address.
pub(crate) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "expected an IP address, such as 127.0.0.1, 0.0.0.0 or ::1".to_owned())
}

/// Parses an http or https URL. Errors name the option and show the example.
pub(crate) fn http_url(option: &str, text: &str, example: &str) -> Result<Url, Failure> {
    let url = Url::parse(text);
    let wrong = |what: &str| {
        let shown = match &url {
            // A password with a `/`, `?` or `#` seems to be no part of it.
            Err(_) => text.rsplit_once('@').map_or(text, |(_, rest)| rest),
            Ok(_) => text,
        };
        Failure::usage(format!(
            "{option}: {} {what}\n  Give a URL such as {example}",
            clean(&redacted(shown))
        ))
    };
    if !["http://", "https://"].iter().any(|scheme| {
        text.get(..scheme.len()).is_some_and(|beginning| beginning.eq_ignore_ascii_case(scheme))
    }) {
        return Err(wrong("does not begin with http:// or https://"));
    }
    url.clone().map_err(|error| wrong(&format!("is not a URL: {error}")))
}

/// A URL without the parts that can hold a secret: user, password, query and fragment.
pub(crate) fn redacted(url: &str) -> String {
    let url = url.split_once(['?', '#']).map_or(url, |(before, _)| before);
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => url.rsplit_once('@').map_or(url, |(_, rest)| rest).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::redacted;

    #[test]
    fn a_url_is_redacted_to_scheme_host_and_path() {
        for (url, expected) in [
            ("http://host/path?token=secret", "http://host/path"),
            ("https://me:secret@host:1/p@th#secret", "https://host:1/p@th"),
            ("me:secret@host/path", "host/path"),
            ("host", "host"),
        ] {
            assert_eq!(redacted(url), expected);
        }
    }
}
