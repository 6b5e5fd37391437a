"""The vendor's generated client for Python over REST proves the stand-in that the tests use: client.py HOST:PORT."""

import sys

from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud.firestore_v1 import types
from google.cloud.firestore_v1.services.firestore import FirestoreClient
from google.cloud.firestore_v1.services.firestore.transports.rest import FirestoreRestTransport

transport = FirestoreRestTransport(host=sys.argv[1], url_scheme="http", credentials=AnonymousCredentials())
client = FirestoreClient(transport=transport)
database = "projects/lab/databases/(default)"
documents = database + "/documents"
name = documents + "/py/x"


def number(n):
    return types.Value(integer_value=n)


def document(n):
    return types.Document(name=name, fields={"n": number(n)})


def refused(kind, work):
    try:
        work()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected")


def create():
    write = types.Write(update=document(1), current_document=types.Precondition(exists=False))
    return client.commit(types.CommitRequest(database=database, writes=[write]))


def update(n, seen):
    mask = types.DocumentMask(field_paths=["n"])
    request = types.UpdateDocumentRequest(
        document=document(n), update_mask=mask, current_document=types.Precondition(update_time=seen)
    )
    return client.update_document(request)


assert len(create().write_results) == 1
refused(exceptions.Conflict, create)
seen = client.get_document(types.GetDocumentRequest(name=name)).update_time
assert seen.nanosecond % 1000 != 0, "nanoseconds are kept"
assert update(2, seen).fields["n"].integer_value == 2
refused(exceptions.BadRequest, lambda: update(3, seen))
request = types.BatchGetDocumentsRequest(database=database, documents=[name, documents + "/py/y"])
assert ["found" in answer for answer in client.batch_get_documents(request)] == [True, False]
selector = types.StructuredQuery.CollectionSelector(collection_id="py")
query = types.StructuredQuery(from_=[selector])
answers = client.run_query(types.RunQueryRequest(parent=documents, structured_query=query))
assert [answer.document.name for answer in answers] == [name]
listed = client.list_documents(types.ListDocumentsRequest(parent=documents, collection_id="py", page_size=50))
assert [one.name for one in listed] == [name]
client.delete_document(types.DeleteDocumentRequest(name=name))
refused(exceptions.NotFound, lambda: client.get_document(types.GetDocumentRequest(name=name)))
print("checked")
