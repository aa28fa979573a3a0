"""The columns of the table: training and inference have them in one order."""

import pydantic


class Row(pydantic.BaseModel):
    """A chemical analysis of a wine."""

    model_config = pydantic.ConfigDict(extra="forbid")

    alcohol: float
    malic_acid: float
    ash: float
    alcalinity_of_ash: float
    magnesium: float
    total_phenols: float
    flavanoids: float
    nonflavanoid_phenols: float
    proanthocyanins: float
    color_intensity: float
    hue: float
    od280_od315: float
    proline: float


class Table(pydantic.BaseModel):
    """Asks for the cultivars of wines."""

    rows: list[Row] = pydantic.Field(min_length=1, max_length=10_000)


class Prediction(pydantic.BaseModel):
    """The most likely cultivar of a wine, and the probability of each."""

    cultivar: int
    probabilities: list[float]


COLUMNS = tuple(Row.model_fields)
