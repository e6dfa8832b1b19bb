/** The API's items by the names that the page uses. The types come from the API's own document. */
import type { components } from './schema';

type Schemas = components['schemas'];

export type Machine = Schemas['MachineBody'];
export type Disk = Schemas['DiskBody'];
export type Health = Schemas['HealthBody'];
export type Point = Schemas['PointBody'];
export type Retention = Schemas['RetentionBody'];
export type Scrub = Schemas['ScrubBody'];
export type Served = Schemas['ServedBody'];
export type Job = Schemas['JobBody'];
export type Event = Schemas['EventBody'];
export type ProcessServer = Schemas['ProcessServerBody'];
export type Version = Schemas['VersionBody'];
export type JoinTicket = Schemas['JoinTicketBody'];
export type JoinToken = Schemas['JoinTokenBody'];
export type ApiToken = Schemas['ApiTokenBody'];
export type Audit = Schemas['AuditBody'];
export type Webhook = Schemas['WebhookBody'];
export type Delivery = Schemas['DeliveryBody'];
export type VaultKeys = Schemas['VaultKeysBody'];
export type Role = Schemas['CallerRole'];
export type Session = Schemas['SessionBody'];
export type Overview = Schemas['OverviewBody'];
export type History = Schemas['HistoryBody'];
export type ProblemDocument = Schemas['Problem'];

export interface Page<T> {
  items: T[];
  next_cursor?: string | null;
}
