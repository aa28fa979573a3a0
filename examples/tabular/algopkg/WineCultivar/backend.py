"""A table of numbers: scikit-learn's pipeline of a scaler and a logistic regression, one row or thousands at a time."""

import modelserve
import numpy as np
import skops.io

from .rows import COLUMNS, Prediction, Table


class WineCultivar(modelserve.AlgoBackend):
    """Return the cultivar that each wine of a table was made from."""

    def _model_init(self, model_path_lst=None):
        """Load the pipeline. Unlike pickle, skops runs no code of the file, and refuses types that it does not know."""
        self.model = skops.io.load(model_path_lst[0])

    def _model_inference_batch(self, tables: list[Table]) -> list[list[Prediction]]:
        """Compute the rows of all requests at once."""
        rows = np.array([[getattr(row, name) for name in COLUMNS] for table in tables for row in table.rows])
        predictions = iter(
            [
                Prediction(cultivar=int(self.model.classes_[values.argmax()]), probabilities=values.tolist())
                for values in self.model.predict_proba(rows)
            ]
        )
        return [[next(predictions) for _ in table.rows] for table in tables]
