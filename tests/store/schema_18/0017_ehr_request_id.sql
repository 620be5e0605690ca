-- What the EHR itself calls a request (MEDITECH's mtrestapi-requestid): its support asks for it. NULL: it names none.
ALTER TABLE ledger.attempt ADD COLUMN ehr_request_id text CHECK (ehr_request_id ~ '^[A-Za-z0-9._:/+=-]{1,128}$');
