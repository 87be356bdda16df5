ce_specversion: 1.0
ce_id: 01JD4Q0000000000000000000F
ce_source: /app
ce_type: quota.resource.created.v1
ce_subject: u1
ce_time: 2026-11-20T12:00:00.000000Z
content-type: application/json

{"resource":"r2","feature":"resume_edits"}