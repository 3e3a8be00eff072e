from spahgc.model.slide_order import ShuffledSlides


def test_slides_come_in_an_order_of_their_own_each_epoch_however_often_it_is_asked():
    def orders(seed):
        n_done = 0
        slides = ShuffledSlides(range(6), seed=seed, n_epochs_done=lambda: n_done)
        for n_done in range(8):  # noqa: B007  the order asks for it
            first, again = list(slides), list(slides)
            assert first == again
            assert sorted(first) == list(range(6))
            yield first

    assert len({tuple(order) for order in orders(3)}) > 4
    assert list(orders(3)) == list(orders(3))
    assert list(orders(3)) != list(orders(4))


def test_several_processes_go_over_all_slides_in_as_many_steps():
    ranks = [
        ShuffledSlides(range(5), seed=0, n_epochs_done=lambda: 0, n_processes=2, rank=rank)
        for rank in (0, 1)
    ]
    assert [len(slides) for slides in ranks] == [3, 3]
    first, second = (list(slides) for slides in ranks)
    assert set(first) | set(second) == set(range(5))
    assert len(first) == len(second) == 3
