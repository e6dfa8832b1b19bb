//! The routes: one list, from which they are registered and documented.

pub mod audit;
pub mod chaos;
pub mod events;
pub mod jobs;
pub mod machines;
pub mod metrics;
pub mod overview;
pub mod points;
pub mod process_servers;
pub mod retention;
pub mod scrub;
pub mod served;
pub mod session;
pub mod stream;
pub mod system;
pub mod tokens;
pub mod webhooks;

use actix_web::web;
use utoipa::OpenApi;

use crate::openapi::Bearer;

macro_rules! routes {
    ($($module:ident::$handler:ident,)*) => {
        /// What is registered and documented.
        #[derive(OpenApi)]
        #[openapi(
            info(title = "Farshore", description = "Disaster-recovery replication: every write, in order, to a far shore"),
            paths($($module::$handler,)*),
            security(("token" = []), ("session" = [])),
            modifiers(&Bearer)
        )]
        pub(crate) struct Routes;

        /// Registers every route.
        pub(crate) fn register(app: &mut web::ServiceConfig) {
            $(app.service($module::$handler);)*
        }
    };
}

routes! {
    machines::list_machines,
    machines::get_machine,
    machines::remove_machine,
    machines::edit_machine,
    machines::move_machine,
    machines::pause_machine,
    machines::resume_machine,
    overview::get_machine_history,
    points::list_points,
    points::request_mark,
    retention::plan_retention,
    retention::hold_point,
    retention::release_hold,
    scrub::get_scrub,
    scrub::begin_scrub,
    scrub::resync,
    served::list_served_points,
    served::get_served_point,
    served::serve_point,
    served::stop_serving,
    served::list_test_failovers,
    served::get_test_failover,
    served::begin_test_failover,
    served::clean_up_test_failover,
    served::begin_restore,
    process_servers::list_process_servers,
    process_servers::get_process_server,
    process_servers::remove_process_server,
    jobs::list_jobs,
    jobs::get_job,
    jobs::cancel_job,
    jobs::retry_job,
    events::list_events,
    audit::list_audit_log,
    metrics::get_metrics,
    tokens::list_join_tokens,
    tokens::create_join_token,
    tokens::revoke_join_token,
    tokens::list_api_tokens,
    tokens::create_api_token,
    tokens::revoke_api_token,
    webhooks::list_webhooks,
    webhooks::get_webhook,
    webhooks::create_webhook,
    webhooks::delete_webhook,
    webhooks::test_webhook,
    webhooks::list_deliveries,
    session::begin_session,
    session::get_session,
    session::end_session,
    session::create_login_code,
    overview::get_overview,
    overview::get_history,
    stream::get_stream,
    chaos::list_faults,
    chaos::arm_fault,
    chaos::disarm_fault,
    system::get_health,
    system::get_version,
    system::get_vault_keys,
    system::get_openapi,
}
