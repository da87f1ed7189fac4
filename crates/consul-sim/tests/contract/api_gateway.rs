//! API gateways, the routes to them, their certificates, and providers of JSON web tokens.

use crate::acl::caller;
use crate::target::{T, args, behaviours, list, table};
use consul_api::error::Kind;
use consul_sim::acl::DefaultPolicy::Deny;
use serde_json::{Value, json};

behaviours![
    a_gateway_has_defaults,
    a_route_has_defaults,
    a_provider_of_tokens_has_defaults,
    invalid_api_gateways_are_refused,
    invalid_routes_of_api_gateways_are_refused,
    invalid_certificates_of_gateways_are_refused,
    invalid_providers_of_tokens_are_refused,
    unknown_members_are_named_with_their_path,
    a_provider_of_tokens_in_use_is_not_deleted,
    only_consul_writes_what_is_bound,
    gateways_and_routes_need_the_permission_for_the_mesh,
];

fn is_older(t: &T) -> bool {
    t.is_1_8("API gateways, their routes and certificates, and providers of tokens are unknown")
}

async fn write(t: &T, entry: Value) {
    let answer = t.raw("PUT", "/v1/config", &entry.to_string()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "true"), "{entry}");
}

async fn delete(t: &T, kind: &str, name: &str) {
    t.ok("config_delete", args![kind, t.name(name)]).await;
}

async fn read(t: &T, kind: &str, name: &str) -> Value {
    let answer = t.raw("GET", &format!("/v1/config/{kind}/{}", t.name(name)), "").await;
    serde_json::from_str(&answer.body).unwrap_or(Value::Null)
}

fn listener(name: &str, port: u16, protocol: &str) -> Value {
    json!({"Name": name, "Port": port, "Protocol": protocol})
}

async fn gateway(t: &T, name: &str, listeners: Value) {
    write(t, json!({"Kind": "api-gateway", "Name": t.name(name), "Listeners": listeners})).await;
}

async fn speaks_http(t: &T) {
    write(t, json!({"Kind": "service-defaults", "Name": t.name("web"), "Protocol": "http"})).await;
}

async fn a_gateway_has_defaults(t: T) {
    if is_older(&t) {
        return;
    }
    gateway(&t, "g", json!([listener("l", 80, "HTTP")])).await;
    let found = read(&t, "api-gateway", "g").await;
    let tls = json!({
        "Certificates": null, "MaxVersion": "", "MinVersion": "", "CipherSuites": null,
    });
    let own = json!([{"Name": "l", "Hostname": "", "Port": 80, "Protocol": "http", "TLS": tls}]);
    assert_eq!(found["Listeners"], own);
    delete(&t, "api-gateway", "g").await;
}

/// A certificate and its key, in PEM.
fn certificate(host: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec![host.to_owned()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, host);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

fn inline(t: &T, name: &str, certificate: &str, key: &str) -> Value {
    let kind = "inline-certificate";
    json!({"Kind": kind, "Name": t.name(name), "Certificate": certificate, "PrivateKey": key})
}

async fn a_route_has_defaults(t: T) {
    if is_older(&t) {
        return;
    }
    let filters = json!({
        "Headers": null, "URLRewrite": null, "RetryFilter": null, "TimeoutFilter": null,
        "JWT": null,
    });
    let given = json!([{
        "Matches": [{"Method": "get"}],
        "Filters": {"TimeoutFilter": {"RequestTimeout": "10s"}},
        "Services": [{"Name": "web"}],
    }]);
    let name = t.name("r");
    write(
        &t,
        json!({"Kind": "http-route", "Name": name, "Parents": {"Name": "g"}, "Rules": given}),
    )
    .await;
    let found = read(&t, "http-route", "r").await;
    assert_eq!(found["Hostnames"], Value::Null);
    let parents = json!([{"Kind": "api-gateway", "Name": "g", "SectionName": ""}]);
    assert_eq!(found["Parents"], parents);
    let mut own = filters.clone();
    own["TimeoutFilter"] = json!({"RequestTimeout": 10_000_000_000_u64, "IdleTimeout": 0});
    let path = json!({"Match": "prefix", "Value": "/"});
    let expected = json!([{
        "Filters": own, "ResponseFilters": {"Headers": null},
        "Matches": [{"Headers": null, "Method": "GET", "Path": path, "Query": null}],
        "Services": [{
            "Name": "web", "Weight": 1, "Filters": filters, "ResponseFilters": {"Headers": null},
        }],
    }]);
    assert_eq!(found["Rules"], expected);
    delete(&t, "http-route", "r").await;
}

async fn a_provider_of_tokens_has_defaults(t: T) {
    if is_older(&t) {
        return;
    }
    let ca = json!({"TrustedCA": {"InlineBytes": "hi"}});
    let remote = json!({
        "uri": "https://x", "cache_duration": "30m", "jwks_cluster": {"tls_certificates": ca},
    });
    write(
        &t,
        json!({
            "Kind": "jwt-provider", "Name": t.name("p"), "json_web_key_set": {"remote": remote},
            "Forwarding": {"HeaderName": "x"}, "Meta": {},
        }),
    )
    .await;
    let found = read(&t, "jwt-provider", "p").await;
    let cluster = json!({"TLSCertificates": {"TrustedCA": {"InlineBytes": "aGk="}}});
    let remote = json!({
        "URI": "https://x", "CacheDuration": 1_800_000_000_000_u64, "JWKSCluster": cluster,
    });
    assert_eq!(found["JSONWebKeySet"], json!({"Remote": remote}));
    assert_eq!(found["ClockSkewSeconds"], 30);
    let forwarding = json!({"HeaderName": "x", "PadForwardPayloadHeader": false});
    assert_eq!(found["Forwarding"], forwarding);
    assert_eq!(found.get("Meta"), None);
    // Go's decoder of base64 does not look at the bits after the last byte.
    let keys = json!({"Local": {"JWKS": "QR=="}});
    write(&t, json!({"Kind": "jwt-provider", "Name": t.name("p"), "JSONWebKeySet": keys})).await;
    delete(&t, "jwt-provider", "p").await;
}

/// Writes an entry of this kind that must be refused with this text.
async fn refused(t: &T, status: u16, kind: &str, mut entry: Value, why: &str) {
    entry["Kind"] = json!(kind);
    if entry.get("Name").is_none() {
        entry["Name"] = json!(t.name("bad"));
    }
    let answer = t.raw("PUT", "/v1/config", &entry.to_string()).await;
    assert_eq!((answer.status, answer.body.as_str()), (status, why), "{entry}");
}

async fn invalid_api_gateways_are_refused(t: T) {
    if is_older(&t) {
        return;
    }
    let with = |members: Value| {
        let mut listener = json!({"Name": "l", "Port": 80, "Protocol": "http"});
        for (name, value) in members.as_object().unwrap() {
            listener[name] = value.clone();
        }
        listener
    };
    let two = |one: Value, other: Value| json!([with(one), with(other)]);
    for (listeners, why) in [
        (json!([]), "api gateway must have at least one listener"),
        (
            json!([with(json!({"Name": "L"}))]),
            "listener name \"L\" is invalid, must be at least 1 character and contain only \
             letters, numbers, or dashes",
        ),
        (two(json!({}), json!({"Port": 81})), "found multiple listeners with the name \"l\""),
        (
            two(json!({}), json!({"Name": "m", "Hostname": "x"})),
            "listeners \"l\" and \"m\" cannot be merged",
        ),
        (
            json!([with(json!({"Protocol": "udp"}))]),
            "unsupported listener protocol \"udp\", must be one of 'tcp', or 'http'",
        ),
        (
            json!([with(json!({"Protocol": "tcp", "Hostname": "x"}))]),
            "hostname specification is not supported when using TCP",
        ),
        (json!([with(json!({"Port": 0}))]), "listener port 0 not in the range 1-65535"),
        (
            json!([with(json!({"Hostname": "a.*.b"}))]),
            "host \"a.*.b\" is not valid, a wildcard specifier is only allowed as the left-most label",
        ),
        (
            json!([with(json!({"TLS": {"Certificates": [{"Kind": "x", "Name": "y"}]}}))]),
            "unsupported certificate kind: \"x\", must be 'file-system-certificate' or \
             'inline-certificate'",
        ),
        (
            json!([with(json!({"TLS": {"Certificates": [{}]}}))]),
            "certificate reference must have a name",
        ),
        (
            json!([with(json!({"TLS": {"MinVersion": "x"}}))]),
            "no matching TLS version found for x, please specify one of [TLS_AUTO, TLSv1_0, \
             TLSv1_1, TLSv1_2, TLSv1_3]",
        ),
        (
            json!([with(json!({"TLS": {"MinVersion": "TLSv1_2", "MaxVersion": "TLSv1_1"}}))]),
            "configuring max version TLSv1_1 less than the configured min version TLSv1_2 is invalid",
        ),
        (
            json!([with(json!({"TLS": {"MinVersion": "TLSv1_3", "CipherSuites": ["x"]}}))]),
            "configuring CipherSuites is only applicable to connections negotiated with TLS 1.2 \
             or earlier, TLSMinVersion is set to TLSv1_3",
        ),
    ] {
        refused(&t, 500, "api-gateway", json!({"Listeners": listeners}), why).await;
    }
    let nameless = json!({"Name": "", "Listeners": [with(json!({}))]});
    refused(&t, 500, "api-gateway", nameless, "serviceName is required").await;
}

async fn invalid_routes_of_api_gateways_are_refused(t: T) {
    if is_older(&t) {
        return;
    }
    let matched = |matched: Value| json!({"Rules": [{}, {"Matches": [{}, matched]}]});
    for (entry, why) in [
        (json!({"Hostnames": ["a..b"]}), "host \"a..b\" must be a valid DNS hostname"),
        (json!({"Hostnames": ["*.b"]}), "host \"*.b\" must not be a wildcard"),
        (
            json!({"Parents": [{"Kind": "x"}]}),
            "unsupported parent kind: \"x\", must be 'api-gateway'",
        ),
        (json!({"Parents": [{"Name": "a"}, {"Name": "a"}]}), "route parents must be unique"),
        (
            matched(json!({"Method": "x"})),
            "Rule[1], Match[1], Method contains an invalid method \"X\"",
        ),
        (
            matched(json!({"Query": [{}]})),
            "Rule[1], Match[1], Query[0], missing required Name field",
        ),
        (
            matched(json!({"Query": [{"Name": "a", "Match": "prefix"}]})),
            "Rule[1], Match[1], Query[0], match type should be one of present, exact, or regex",
        ),
        (
            matched(json!({"Headers": [{"Name": "a"}]})),
            "Rule[1], Match[1], Headers[0], match type should be one of present, exact, prefix, \
             suffix, or regex",
        ),
        (
            matched(json!({"Path": {"Match": "exact", "Value": "x"}})),
            "Rule[1], Match[1], Path, exact type match doesn't start with '/': \"x\"",
        ),
        (
            matched(json!({"Path": {"Match": "x"}})),
            "Rule[1], Match[1], Path, match type should be one of exact, prefix, or regex",
        ),
    ] {
        refused(&t, 500, "http-route", entry, why).await;
    }
    for (entry, why) in [
        (
            json!({"Services": [{"Name": "a"}, {"Name": "b"}]}),
            "tcp-route currently only supports one service",
        ),
        (
            json!({"Parents": [{"Kind": "x"}]}),
            "unsupported parent kind: \"x\", must be 'api-gateway'",
        ),
    ] {
        refused(&t, 500, "tcp-route", entry, why).await;
    }
}

const PARAMETERS: &str =
    "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";

/// A certificate and its key on the curve P-521.
const P521: (&str, &str) = (
    "-----BEGIN CERTIFICATE-----\n\
     MIICBjCCAWigAwIBAgIUP7FIVrZVHDJZpUP4dCrNgS39+OwwCgYIKoZIzj0EAwIw\n\
     FDESMBAGA1UEAwwJYS5leGFtcGxlMCAXDTI2MTEyNDIyMTYwMloYDzIxMjYxMDMx\n\
     MjIxNjAyWjAUMRIwEAYDVQQDDAlhLmV4YW1wbGUwgZswEAYHKoZIzj0CAQYFK4EE\n\
     ACMDgYYABAHc4igQjawVJ9yEz+rjOpmCQDtGh9tJqQKiWodlzCsh5MUXEwTB1Qb3\n\
     XdeMQigwC4OxYPuJzZ0IogHz7g/2vW1xMgG+b5Yid8ynoEtzf0u9WenjOIxAVe+B\n\
     l6cTZhuVW+g17BqECc/0arg2cjyoJVxSjsUVbEJQLyxY+vTrg6D8SmBcS6NTMFEw\n\
     HQYDVR0OBBYEFIxSiyTAd6oFQStnnHkdghkElzAwMB8GA1UdIwQYMBaAFIxSiyTA\n\
     d6oFQStnnHkdghkElzAwMA8GA1UdEwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDgYsA\n\
     MIGHAkEzsYiSM7Hwy+nwOpHnNz67JaQMQoMo2zYCCNrawZVATNVfx/XmziVPRQAA\n\
     54vcAf0utBb/xituPDy5GM+Z4H9y3QJCAOZvRewWHitFE4K7iYTbkiWZeU3tAgeR\n\
     e87ou6AkKbjtEYygyVHvslLFSv0MGbmjGzlZPFew0MF8LRl+O/zLqdX6\n\
     -----END CERTIFICATE-----",
    "-----BEGIN EC PRIVATE KEY-----\n\
     MIHcAgEBBEIAeo9mfxMOTrZoMAiagLbqLVl1au7wdVOOKT5Sz52VewKHXqU1uGBF\n\
     Qvi5ldibAZqtaDbiDI2RTLWD0BYmAh28ItWgBwYFK4EEACOhgYkDgYYABAHc4igQ\n\
     jawVJ9yEz+rjOpmCQDtGh9tJqQKiWodlzCsh5MUXEwTB1Qb3XdeMQigwC4OxYPuJ\n\
     zZ0IogHz7g/2vW1xMgG+b5Yid8ynoEtzf0u9WenjOIxAVe+Bl6cTZhuVW+g17BqE\n\
     Cc/0arg2cjyoJVxSjsUVbEJQLyxY+vTrg6D8SmBcSw==\n\
     -----END EC PRIVATE KEY-----",
);

async fn invalid_certificates_of_gateways_are_refused(t: T) {
    if is_older(&t) {
        return;
    }
    let kind = "inline-certificate";
    let (certificate, key) = certificate("a.example");
    let (other, other_key) = self::certificate("a..example");
    let no_key = "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input \
                  after skipping PEM blocks of the following types: [EC PARAMETERS]";
    let not_der = "-----BEGIN CERTIFICATE-----\naGk=\n-----END CERTIFICATE-----\n";
    for (certificate, key, why) in [
        ("", "", "failed to parse private key PEM"),
        ("", &key, "failed to parse certificate PEM"),
        (not_der, &key, "failed to parse certificate: x509: malformed certificate"),
        (&certificate, &other_key, "tls: private key does not match public key"),
        (&other, &other_key, "host \"a..example\" must be a valid DNS hostname"),
        (&certificate, PARAMETERS, no_key),
    ] {
        let entry = json!({"Certificate": certificate, "PrivateKey": key});
        refused(&t, 500, kind, entry, why).await;
    }
    // As `openssl ecparam -genkey` writes it.
    let (on_p521, p521) = P521;
    for (certificate, key) in [(&*certificate, &*format!("{PARAMETERS}{key}")), (on_p521, p521)] {
        write(&t, inline(&t, "c", certificate, key)).await;
    }
    write(&t, inline(&t, "c", &certificate, &key)).await;
    let found = read(&t, kind, "c").await;
    assert_eq!((&found["Certificate"], &found["PrivateKey"]), (&json!(certificate), &json!(key)));
    delete(&t, kind, "c").await;
}

async fn invalid_providers_of_tokens_are_refused(t: T) {
    if is_older(&t) {
        return;
    }
    let remote = |members: Value| {
        let mut remote = members;
        remote["URI"] = json!("https://x");
        json!({"JSONWebKeySet": {"Remote": remote}})
    };
    let local = |members: Value| {
        let mut entry = members;
        entry["JSONWebKeySet"] = json!({"Local": {"Filename": "x"}});
        entry
    };
    for (entry, why) in [
        (json!({}), "JSONWebKeySet is required"),
        (
            json!({"JSONWebKeySet": {}}),
            "must specify exactly one of Local or Remote JSON Web key set",
        ),
        (
            json!({"JSONWebKeySet": {"Local": {}}}),
            "must specify exactly one of String or filename for local keyset",
        ),
        (
            json!({"JSONWebKeySet": {"Local": {"JWKS": "!"}}}),
            "JWKS must be valid base64 encoded string",
        ),
        (json!({"JSONWebKeySet": {"Remote": {}}}), "Remote JWKS URI is required"),
        (
            json!({"JSONWebKeySet": {"Remote": {"URI": "x"}}}),
            "Remote JWKS URI is invalid: parse \"x\": invalid URI for request, uri: x",
        ),
        (
            remote(json!({"RetryPolicy": {"RetryPolicyBackOff": {
                "BaseInterval": "2s", "MaxInterval": "1s",
            }}})),
            "retry policy backoff's MaxInterval should be greater or equal to BaseInterval",
        ),
        (
            remote(json!({"JWKSCluster": {"DiscoveryType": "x"}})),
            "unsupported jwks cluster discovery type: \"x\"",
        ),
        (
            remote(json!({"JWKSCluster": {"TLSCertificates": {}}})),
            "must specify exactly one of: CaCertificateProviderInstance or TrustedCA for JKWS' \
             TLSCertificates",
        ),
        (
            remote(json!({"JWKSCluster": {"TLSCertificates": {"TrustedCA": {}}}})),
            "must specify exactly one of: Filename, EnvironmentVariable, InlineString or \
             InlineBytes for JWKS' TrustedCA",
        ),
        (
            local(json!({"Locations": [{"Header": {}}, {}]})),
            "2 errors occurred:\n\t* JWT location header name must be specified\n\t* must set \
             exactly one of: JWT location header, query param or cookie",
        ),
        (local(json!({"Forwarding": {}})), "Header name required for forwarding config"),
        (local(json!({"Name": ""})), "Name is required"),
    ] {
        refused(&t, 500, "jwt-provider", entry, why).await;
    }
}

async fn unknown_members_are_named_with_their_path(t: T) {
    if is_older(&t) {
        return;
    }
    let failed = "Request decoding failed: 1 error occurred:\n\t* invalid config key";
    let listener = json!({
        "Name": "l", "Port": 80, "Protocol": "http", "tls": {"min_version": "x"},
        "Override": {"JWT": {"Providers": []}},
    });
    let why = "Request decoding failed: 3 errors occurred:\n\t* invalid config key \
               \"Listeners[0].TLS.min_version\"\n\t* invalid config key \
               \"Listeners[0].Override.JWT.Providers\", api-gateway jwt validation is a consul \
               enterprise feature\n\t* invalid config key \"Bad\"";
    refused(&t, 400, "api-gateway", json!({"Listeners": [listener], "Bad": 1}), why).await;
    for (kind, entry, why) in [
        (
            "http-route",
            json!({"Parents": [{"section_name": "x"}]}),
            format!("{failed} \"Parents[0].section_name\""),
        ),
        (
            "tcp-route",
            json!({"Services": [{"Namespace": "x"}]}),
            format!(
                "{failed} \"Services[0].Namespace\", namespaces are a consul enterprise feature"
            ),
        ),
        ("tcp-route", json!({"Status": {"x": 1}}), format!("{failed} \"Status.x\"")),
        (
            "file-system-certificate",
            json!({"private_key": "x"}),
            format!("{failed} \"private_key\""),
        ),
        ("jwt-provider", json!({"x": 1}), format!("{failed} \"x\"")),
    ] {
        refused(&t, 400, kind, entry, &why).await;
    }
}

async fn a_provider_of_tokens_in_use_is_not_deleted(t: T) {
    if is_older(&t) {
        return;
    }
    let (provider, web) = (t.name("p"), t.name("web"));
    let keys = json!({"Local": {"Filename": "x"}});
    write(&t, json!({"Kind": "jwt-provider", "Name": provider, "JSONWebKeySet": keys})).await;
    let kind = "service-intentions";
    write(
        &t,
        json!({
            "Kind": kind, "Name": web, "Sources": [{"Name": "a", "Action": "allow"}],
            "JWT": {"Providers": [{"Name": provider}]},
        }),
    )
    .await;
    let why = format!(
        "cannot delete jwt provider config entry referenced by an intention. Provider name: \
         {provider}, intention name: {web}"
    );
    for name in [&provider, &provider.to_uppercase()] {
        let answer = t.raw("DELETE", &format!("/v1/config/jwt-provider/{name}"), "").await;
        assert_eq!((answer.status, &answer.body), (500, &why));
    }
    let path = format!("/v1/config/jwt-provider/{provider}?cas=1");
    assert_eq!(t.raw("DELETE", &path, "").await.body, "false");
    delete(&t, kind, "web").await;
    speaks_http(&t).await;
    let token = json!({"Providers": [{"Name": provider.to_uppercase()}]});
    let permission = json!({"Action": "allow", "HTTP": {"PathPrefix": "/"}, "JWT": token});
    let sources = json!({"Sources": [{"Name": "a", "Permissions": [permission]}]});
    let why = format!(
        "1 error occurred:\n\t* Referenced JWT Provider does not exist. Provider Name: {}",
        provider.to_uppercase()
    );
    refused(&t, 500, kind, sources, &why).await;
    delete(&t, "service-defaults", "web").await;
    delete(&t, "jwt-provider", "p").await;
}

async fn only_consul_writes_what_is_bound(t: T) {
    if is_older(&t) {
        return;
    }
    gateway(&t, "g", json!([listener("l", 80, "http")])).await;
    let why = "Permission denied: only writeable by controller";
    let kind = "bound-api-gateway";
    refused(&t, 403, kind, json!({"Name": t.name("g")}), why).await;
    let answer = t.raw("DELETE", &format!("/v1/config/{kind}/{}", t.name("g")), "").await;
    assert_eq!((answer.status, answer.body.as_str()), (403, why));
    delete(&t, "api-gateway", "g").await;
}

async fn gateways_and_routes_need_the_permission_for_the_mesh(t: T) {
    let t = t.with_acls(Deny);
    if is_older(&t) {
        return;
    }
    let route = table! {"Kind" = "tcp-route", "Name" = t.name("r")};
    let keys = table! {"Local" = table! {"Filename" = "x"}};
    let provider = table! {"Kind" = "jwt-provider", "Name" = t.name("p"), "JSONWebKeySet" = keys};
    let reader = caller(&t, "mesh = \"read\"").await;
    let proxy = caller(&t, "service \"web\" { policy = \"write\" }").await;
    for entry in [&route, &provider] {
        reader.fails("config_write", args![entry.clone()], Kind::PermissionDenied).await;
        t.ok("config_write", args![entry.clone()]).await;
    }
    reader.ok("config_read", args!["tcp-route", t.name("r")]).await;
    proxy.fails("config_read", args!["tcp-route", t.name("r")], Kind::PermissionDenied).await;
    assert_eq!(proxy.value("config_list", args!["tcp-route"]).await, list![]);
    // The proxies of a service check tokens.
    proxy.ok("config_read", args!["jwt-provider", t.name("p")]).await;
    delete(&t, "tcp-route", "r").await;
    delete(&t, "jwt-provider", "p").await;
}
