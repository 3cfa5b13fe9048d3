'use strict';
// A function that every Node.js instance loads and calls once while it boots, so that the way of the first
// real call through the loader, the shim and JSON has been compiled by then.
exports.handler = async (event, context) => ({ event, id: context.awsRequestId, left: context.getRemainingTimeInMillis() > 0 });
