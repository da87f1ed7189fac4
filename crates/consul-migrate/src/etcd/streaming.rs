//! Requests whose answers are read in parts as they come: for servers that answer without end.

use super::grpc::Grpc;
use ::http::{HeaderMap, Request, Response, Uri};
use bytes::Bytes;
use consul_api::error::{Error, Kind};
use consul_client::transport::http::error;
use consul_client::transport::https::{self, Https};
use consul_client::transport::{Options, TlsOptions};
use consul_process::clock::BoxFuture;
use futures_util::stream::{self, BoxStream};
use std::fmt;

/// The parts of a body, in their order.
pub type Parts = BoxStream<'static, Result<Bytes, Error>>;

/// The way to a server that is not Consul's.
///
/// The request's URI is a path, as in [`consul_client::transport::Transport`]. The future and the stream may be dropped at
/// any time, which abandons the request.
pub trait Streaming: fmt::Debug + Send + Sync {
    /// Sends one request. A response of any status is `Ok`.
    fn open(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Parts>, Error>>;

    /// The answer of the server to a call of gRPC; `None` without a success, also if it does not speak it. Then it
    /// can be asked by HTTP, which has the reason.
    fn call<'a>(
        &'a self,
        _method: &'a str,
        _token: Option<&'a str>,
        _message: &'a [u8],
    ) -> BoxFuture<'a, Option<Bytes>> {
        Box::pin(async { None })
    }

    /// The server's name for messages, without credentials.
    fn endpoint(&self) -> &str;
}

/// A server at `http://…` or `https://…`.
pub struct StreamingHttp {
    endpoint: String,
    pool: Https,
    grpc: Grpc,
}

impl StreamingHttp {
    /// Nothing is connected yet; the files that the options name are read now.
    ///
    /// # Errors
    /// [`consul_api::error::Kind::Config`] when the URL is not valid or a file cannot be used.
    pub fn new(endpoint: &str, options: &Options) -> Result<Self, Error> {
        let mut options = options.clone();
        let refuse = |why: &str| {
            let why = format!("{endpoint:?} {why}");
            Err(Error::new(Kind::Config, why).not_sent())
        };
        match endpoint.parse::<Uri>().ok().as_ref().and_then(Uri::scheme_str) {
            Some("https") => {}
            Some("http") if options.tls.has_files() => {
                return refuse("is without TLS, but there are files for TLS: write https://");
            }
            // A system without a store of certificates can use plain HTTP.
            Some("http") => options.tls = TlsOptions { verify: false, ..TlsOptions::default() },
            _ => return refuse("must begin with http:// or https://"),
        }
        let pool = Https::new(endpoint, HeaderMap::new(), &options)?;
        let grpc = Grpc::new(endpoint, &options)?;
        Ok(StreamingHttp { endpoint: endpoint.to_owned(), pool, grpc })
    }
}

impl Streaming for StreamingHttp {
    fn open(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Parts>, Error>> {
        Box::pin(async move {
            let answer = self.pool.open(request).await;
            let answer = answer.map_err(|failure| error(&self.endpoint, failure))?;
            Ok(answer.map(|body| parts(body, self.endpoint.clone())))
        })
    }

    fn call<'a>(
        &'a self,
        method: &'a str,
        token: Option<&'a str>,
        message: &'a [u8],
    ) -> BoxFuture<'a, Option<Bytes>> {
        Box::pin(self.grpc.call(method, token, message))
    }

    fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

fn parts(body: reqwest::Body, endpoint: String) -> Parts {
    let next = |(mut body, endpoint): (reqwest::Body, String)| async move {
        let part = https::next_part(&mut body).await;
        let part = part.map_err(|failure| error(&endpoint, failure)).transpose()?;
        Some((part, (body, endpoint)))
    };
    Box::pin(stream::unfold((body, endpoint), next))
}

impl fmt::Debug for StreamingHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamingHttp").field(&self.endpoint).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(endpoint: &str) -> String {
        let tls =
            TlsOptions { ca_file: Some("/no/such/authority".into()), ..TlsOptions::default() };
        let options = Options { tls, ..Options::default() };
        StreamingHttp::new(endpoint, &options).expect_err("no such file").to_string()
    }

    #[test]
    fn a_scheme_in_capitals_means_tls_too() {
        assert!(refusal("https://a:2379").contains("/no/such/authority"));
        assert!(refusal("HTTPS://a:2379").contains("/no/such/authority"));
    }

    #[test]
    fn files_for_tls_are_not_ignored_and_other_schemes_are_refused() {
        assert!(refusal("http://a:2379").contains("write https://"));
        assert!(refusal("unix://a").contains("must begin with http:// or https://"));
    }
}
