ce-specversion: 1.0
ce-id: 01JD4Q0000000000000000000F
ce-source: /app
ce-type: quota.resource.created.v1
ce-subject: u1
ce-time: 2026-11-20T12:00:00.000000Z
content-type: application/json

{"resource":"r2","feature":"resume_edits"}