// The echo that @google-cloud/functions-framework serves.
exports.echo = (request, response) => {
  response.json(request.body);
};
