//! An authority that gives tokens, as Entra ID does, to the one application whose secret is right. The emulator looks at what a
//! token says, not at its signature.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The application's secret.
pub(crate) const SECRET: &str = "the-right-secret";

const PROGRAM: &str = r#"
const fs = require('node:fs');
const [certificate, key, secret] = process.argv.slice(1);
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const token = () => {
  const now = Math.floor(Date.now() / 1000);
  const claims = { aud: 'https://storage.azure.com', iss: 'https://sts.windows.net/tenant/', iat: now, nbf: now - 60, exp: now + 3600 };
  return [part({ alg: 'none', typ: 'JWT' }), part(claims), 'unsigned'].join('.');
};
const tls = { cert: fs.readFileSync(certificate), key: fs.readFileSync(key) };
const server = require('node:https').createServer(tls, (request, answer) => {
  let body = '';
  request.on('data', (piece) => (body += piece));
  request.on('end', () => {
    const right = request.url === '/tenant/oauth2/v2.0/token' && new URLSearchParams(body).get('client_secret') === secret;
    answer.writeHead(right ? 200 : 401, { 'content-type': 'application/json' });
    answer.end(JSON.stringify(right ? { token_type: 'Bearer', expires_in: 3600, access_token: token() }
      : { error: 'invalid_client', error_description: 'no such secret' }));
  });
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
"#;

/// The running authority.
pub(crate) struct Authority {
    child: Child,
    port: u16,
}

impl Authority {
    /// Starts it with this certificate and key.
    pub(crate) fn start(certificate: &Path, key: &Path) -> Self {
        let mut command = Command::new("node");
        command.args(["-e", PROGRAM, "--"]).arg(certificate).arg(key).arg(SECRET);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("start node");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("it says where it is");
        Self { child, port: line.trim().parse().expect("a port") }
    }

    /// Its address.
    pub(crate) fn address(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
